"""Stock SGLang on a CPU: the substitutes one by one, then a real server with both tiers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from kvflow_sglang import cpu_engine
from kvflow_sglang.compat import cpu
from kvflow_sglang.server_process import ServerProcess

DEVICE_TOKENS = 4096
PROMPT_TOKENS = 1500


def load_stand_in(name: str) -> ModuleType:
    path = cpu_engine.STAND_IN_FOLDER / name / "__init__.py"
    spec = importlib.util.spec_from_file_location(f"stand_in_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_stand_in_gives_any_function_and_none_of_them_runs() -> None:
    stand_in = load_stand_in("sgl_kernel")
    verify_tree_greedy_cpu = stand_in.verify_tree_greedy_cpu
    with pytest.raises(NotImplementedError, match="sgl_kernel.verify_tree_greedy_cpu"):
        verify_tree_greedy_cpu(1, key=2)
    assert not hasattr(stand_in, "__wrapped__")


def test_flashinfer_is_hidden() -> None:
    with pytest.raises(ImportError, match="hidden"):
        load_stand_in("flashinfer")


def test_rows_are_copied_where_they_belong_and_nowhere_else() -> None:
    import torch

    sources = [torch.arange(24.0).reshape(6, 2, 2) + 100 * layer for layer in range(3)]
    destinations = [torch.zeros(8, 2, 2) for _ in sources]
    cpu_engine.copy_rows(
        src_layers=sources,
        dst_layers=destinations,
        src_indices=torch.tensor([4, 0, 5]),
        dst_indices=torch.tensor([1, 7, 2]),
        page_size=1,
    )
    for source, destination in zip(sources, destinations, strict=True):
        assert torch.equal(destination[[1, 7, 2]], source[[4, 0, 5]])
        assert not destination[[0, 3, 4, 5, 6]].any()


def test_nothing_is_substituted_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise AssertionError("substituted")

    monkeypatch.setattr(cpu, "set_direct_transfer", fail)
    monkeypatch.setattr(cpu, "set_cpu_host_allocation", fail)
    monkeypatch.setattr(cpu, "set_host_memory_reserve", fail)
    monkeypatch.setattr(cpu, "use_gloo_only", fail)
    monkeypatch.setitem(sys.modules, "sglang.srt.managers.scheduler", ModuleType("scheduler"))
    monkeypatch.delenv("SGLANG_USE_CPU_ENGINE", raising=False)
    cpu_engine.register()
    monkeypatch.setenv("SGLANG_USE_CPU_ENGINE", "1")
    with pytest.raises(AssertionError, match="substituted"):
        cpu_engine.register()


def test_common_models_are_found_without_an_import_of_all_and_others_with_one() -> None:
    program = """if True:
        import sys
        from sglang.srt.models.registry import ModelRegistry
        assert ModelRegistry.resolve_model_cls("LlamaForCausalLM")[1] == "LlamaForCausalLM"
        assert "sglang.srt.models.gemma2" not in sys.modules
        assert ModelRegistry.resolve_model_cls("Gemma2ForCausalLM")[1] == "Gemma2ForCausalLM"
    """
    env = {**os.environ, **cpu_engine.environment(os.environ)}
    subprocess.run([sys.executable, "-c", program], env=env, check=True)


@dataclass(frozen=True)
class Answer:
    """What one chat completion said, and where its prompt was found."""

    text: str
    prompt_tokens: int
    cached_tokens: int
    host_tokens: int


def ask(server: ServerProcess, prompt: str) -> Answer:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 24,
        "temperature": 0,
        "ignore_eos": True,
        "return_cached_tokens_details": True,
    }
    request = urllib.request.Request(
        f"{server.base_url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        said = json.load(answer)
    assert said["usage"]["completion_tokens"] == 24
    details = said.get("sglext") or {}
    return Answer(
        text=said["choices"][0]["message"]["content"],
        prompt_tokens=said["usage"]["prompt_tokens"],
        cached_tokens=said["usage"]["prompt_tokens_details"]["cached_tokens"],
        host_tokens=details.get("cached_tokens_details", {}).get("host", 0),
    )


def prompts(seed: str, count: int) -> list[str]:
    """Long prompts that share nothing with each other, nor with those of another seed."""
    words = [f"{seed}{number}" for number in range(count)]
    texts = ("".join(f"{word}.{index * 7919 % 1009} " for index in range(300)) for word in words)
    return [text[:PROMPT_TOKENS] for text in texts]


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A stock server whose device tier holds two prompts and whose host tier holds ten."""
    flags = ["--stock", "--host-tier", "--engine", "cpu", "--skip-server-warmup"]
    sizes = ["--max-total-tokens", str(DEVICE_TOKENS), "--hicache-ratio", "4"]
    log = tmp_path_factory.mktemp("server") / "server.log"
    with ServerProcess(tiny_model, flags + sizes, log=log) as started:
        yield started


def test_it_is_the_stock_cache_with_both_tiers(server: ServerProcess) -> None:
    log = server.log.read_text()
    assert "source=default impl=UnifiedRadixCache" in log
    assert "hicache_attached=True" in log
    assert "'radix_cache_backend': None" in log


def test_a_repeated_prompt_is_found_on_the_device(server: ServerProcess) -> None:
    (prompt,) = prompts("repeat", 1)
    first, second = ask(server, prompt), ask(server, prompt)
    assert first.cached_tokens < 50  # no more than the template's head
    # The last prompt token is always computed, to have its output.
    assert second.cached_tokens == second.prompt_tokens - 1
    assert second.host_tokens == 0
    assert second.text == first.text


def test_an_evicted_prompt_comes_back_from_the_host(server: ServerProcess) -> None:
    prompt, *others = prompts("evicted", 5)
    first = ask(server, prompt)
    for other in others:
        ask(server, other)
    again = ask(server, prompt)
    assert again.host_tokens > PROMPT_TOKENS - 50
    assert again.cached_tokens == again.prompt_tokens - 1
    assert again.text == first.text


def test_answers_are_the_same_cold_cached_and_in_parallel(server: ServerProcess) -> None:
    texts = prompts("same", 6)
    cold = [ask(server, text) for text in texts]
    warm = [ask(server, text) for text in texts]
    with ThreadPoolExecutor(len(texts)) as pool:
        parallel = list(pool.map(lambda text: ask(server, text), texts))
    assert all(answer.host_tokens == 0 for answer in cold)
    assert any(answer.host_tokens > 0 for answer in warm)
    # Prompts so different that their answers differ: equal ones below then mean the right KV.
    assert len({answer.text for answer in cold}) == len(texts)
    assert [answer.text for answer in warm] == [answer.text for answer in cold]
    assert [answer.text for answer in parallel] == [answer.text for answer in cold]
