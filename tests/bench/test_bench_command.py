"""What the command refuses before any server is started."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kvflow_bench import shape
from kvflow_bench.adapters import Adapters
from kvflow_bench.cli import app

RUN = ["run", "--engine", "gpu"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (RUN, "--model is needed to start the servers lru, hicache, kvflow, ceiling"),
        ([*RUN, "--preset", "a100"], "no preset 'a100'"),
        ([*RUN, "--arm", "vllm"], "no arm 'vllm'"),
        ([*RUN, "--server", "kvflow=localhost:1"], "--server takes NAME=URL"),
        ([*RUN, "--server-command", "lru=x"], "takes NAME=COMMAND, with the NAME of a --server"),
        ([*RUN, "--preset", "slow-link", "--model", "m"], "--slow-link needs"),
        (["shape", "x", "--like", "gpt-5"], "no shape 'gpt-5'; there are llama-3.1-8b, qwen"),
        ([*RUN, "--kvflow-config", "[]"], "must be a JSON object"),
        ([*RUN, "--agents", "0"], "agents must be at least 1"),
        ([*RUN, "--slow-link", "2"], "--slow-link needs"),
        (["run", "--engine", "tpu"], "--engine is cpu or gpu"),
        (["race", "--engine", "gpu"], "--model is needed to start the servers with, without"),
        (["report", "/nowhere.json"], "holds no results"),
        (["plot", __file__, "--out", "x"], "holds no results"),
    ],
)
def test_what_cannot_work_is_refused_with_a_reason(arguments: list[str], reason: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert reason in " ".join(result.output.split())


def test_help_needs_neither_plots_nor_servers() -> None:
    code = (
        "import sys, kvflow_bench.cli;"
        "print(*{'aiohttp', 'matplotlib', 'sglang', 'torch'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == ""


def test_a_real_models_shape_needs_no_weights(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = tmp_path / "llama"
    for outcome in ("made", "already there"):
        result = CliRunner().invoke(app, ["shape", str(folder)])
        assert result.exit_code == 0 and outcome in result.output
    assert {"config.json", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert not list(folder.glob("*.safetensors"))
    other = tmp_path / "qwen"
    result = CliRunner().invoke(app, ["shape", str(other), "--like", "qwen2.5-32b"])
    assert result.exit_code == 0
    assert json.loads((other / "config.json").read_text()) == shape.QWEN_32B


def test_adapters_of_a_real_models_shape_share_one_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    folder = tmp_path / "llama"
    result = CliRunner().invoke(app, ["shape", str(folder), "--adapters", "3", "--rank", "1"])
    assert result.exit_code == 0, result.output
    Adapters(folder, count=3, slots=2).check()
    paths = [folder / "adapters" / str(number) / shape.WEIGHTS for number in range(3)]
    assert all(path.samefile(paths[0]) for path in paths)
    weights = load_file(paths[2])
    assert len(weights) == 32 * 7 * 2
    key = "base_model.model.model.layers.31.mlp.down_proj.lora_B.weight"
    assert weights[key].shape == (4096, 1)
    assert weights[key].dtype == torch.bfloat16
    assert json.loads((paths[0].parent / "adapter_config.json").read_text())["r"] == 1
