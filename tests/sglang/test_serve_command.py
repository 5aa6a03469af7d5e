from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kvflow_agents.errors import ConfigurationError
from kvflow_sglang import cpu_engine, serve
from kvflow_sglang.cpu_engine import STAND_IN_FOLDER
from kvflow_sglang.serve import Engine, ServerCommand, command

PYTHON = "/venv/bin/python"
START = (PYTHON, "/venv/bin/sglang", "serve", "--model-path", "org/model", "--model-type", "llm")
CPU_FLAGS = (
    *("--device", "cpu"),
    *("--attention-backend", "torch_native"),
    *("--sampling-backend", "pytorch"),
    *("--lora-backend", "torch_native"),
    *("--dtype", "float32"),
    *("--cuda-graph-backend-decode", "disabled"),
    *("--cuda-graph-backend-prefill", "disabled"),
    *("--max-total-tokens", "32768"),
    *("--max-running-requests", "32"),
    "--sleep-on-idle",
)
CPU_HOST_TIER_FLAGS = (
    *("--hicache-io-backend", "direct"),
    *("--hicache-mem-layout", "layer_first"),
    *("--page-size", "1"),
)
HOST_TIER_FLAGS = ("--enable-hierarchical-cache", "--hicache-write-policy", "write_through")
KVFLOW_FLAGS = ("--enable-cache-report", "--radix-cache-backend", "kvflow")
MSGPACK = {"SGLANG_USE_PICKLE_IPC": "0"}
CPU_ENV = {
    "SGLANG_USE_CPU_ENGINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONPATH": str(STAND_IN_FOLDER),
    "SGLANG_EXTERNAL_MODEL_PACKAGE": "kvflow_sglang.compat.dense_models",
}


def test_on_a_gpu_only_kvflow_is_added() -> None:
    assert command("org/model", engine=Engine.GPU, python=PYTHON) == ServerCommand(
        (*START, *KVFLOW_FLAGS), {"SGLANG_PLUGINS": "kvflow", **MSGPACK}
    )


def test_stock_on_a_gpu_loads_no_plugin() -> None:
    assert command("org/model", engine=Engine.GPU, stock=True, python=PYTHON) == ServerCommand(
        (*START, "--enable-cache-report"), {"SGLANG_PLUGINS": "none"}
    )


def test_a_cpu_gets_its_engine() -> None:
    assert command("org/model", engine=Engine.CPU, python=PYTHON) == ServerCommand(
        (*START, *CPU_FLAGS, *KVFLOW_FLAGS),
        {"SGLANG_PLUGINS": "kvflow,kvflow_cpu", **CPU_ENV, **MSGPACK},
    )


def test_stock_on_a_cpu_differs_in_kvflow_alone() -> None:
    assert command("org/model", engine=Engine.CPU, stock=True, python=PYTHON) == ServerCommand(
        (*START, *CPU_FLAGS, "--enable-cache-report"), {"SGLANG_PLUGINS": "kvflow_cpu", **CPU_ENV}
    )


def test_the_host_tier_on_a_gpu_keeps_the_transfers_of_sglang() -> None:
    built = command("org/model", engine=Engine.GPU, host_tier=True, python=PYTHON)
    assert built.argv == (*START, *HOST_TIER_FLAGS, *KVFLOW_FLAGS)


def test_the_host_tier_on_a_cpu_copies_rows() -> None:
    built = command("org/model", engine=Engine.CPU, host_tier=True, python=PYTHON)
    assert built.argv == (
        *(*START, *CPU_FLAGS, *CPU_HOST_TIER_FLAGS, *HOST_TIER_FLAGS, *KVFLOW_FLAGS),
    )


def test_other_flags_pass_through_in_order_and_last() -> None:
    flags = ["--port", "30001", "--tp-size=2", "--trust-remote-code"]
    built = command("org/model", flags, engine=Engine.GPU, python=PYTHON)
    assert built.argv == (*START, *KVFLOW_FLAGS, *flags)


@pytest.mark.parametrize("given", [["--dtype", "bfloat16"], ["--dtype=bfloat16"]])
def test_a_flag_of_the_user_replaces_ours(given: list[str]) -> None:
    argv = command("org/model", given, engine=Engine.CPU, python=PYTHON).argv
    assert "float32" not in argv
    assert argv[-len(given) :] == tuple(given)
    assert argv.count("--device") == 1


def test_plugins_and_folders_already_asked_for_stay() -> None:
    env = {"SGLANG_PLUGINS": "park, kvflow", "PYTHONPATH": "/mine"}
    built = command("org/model", engine=Engine.CPU, env=env, python=PYTHON)
    assert built.env["SGLANG_PLUGINS"] == "park,kvflow,kvflow_cpu"
    assert built.env["PYTHONPATH"] == f"{STAND_IN_FOLDER}{os.pathsep}/mine"
    stock = command("org/model", engine=Engine.GPU, stock=True, env=env, python=PYTHON)
    assert stock.env["SGLANG_PLUGINS"] == "park"


def test_who_wants_pickle_between_sglangs_processes_keeps_it() -> None:
    env = {"SGLANG_USE_PICKLE_IPC": "1"}
    assert not MSGPACK.keys() & command("org/model", engine=Engine.GPU, env=env).env.keys()


def test_a_local_folder_needs_no_hub(tmp_path: Path) -> None:
    assert command(str(tmp_path), engine=Engine.GPU).env["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in command("org/model", engine=Engine.GPU).env


def test_settings_reach_the_plugin_in_one_variable() -> None:
    built = command("org/model", engine=Engine.GPU, config='{"max_hold_passes": 8}')
    assert json.loads(built.env["KVFLOW_CONFIG"]) == {"max_hold_passes": 8}


@pytest.mark.parametrize("config", ["{", "[1]", "8", "null"])
def test_settings_must_be_a_json_object(config: str) -> None:
    with pytest.raises(ConfigurationError, match="--kvflow-config"):
        command("org/model", engine=Engine.GPU, config=config)


def test_hidden_gpus_mean_the_cpu_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert serve.detect_engine() is Engine.CPU
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert serve.detect_engine() is Engine.GPU


class Became(Exception):
    """Stands for the process that `exec` would replace this one with."""


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[str, ...], dict[str, str]]]:
    calls: list[tuple[tuple[str, ...], dict[str, str]]] = []

    def execve(path: str, argv: tuple[str, ...], env: dict[str, str]) -> None:
        assert path == argv[0]
        calls.append((argv, env))
        raise Became

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return calls


def test_the_command_line_tells_its_own_options_from_sglangs(
    became: list[tuple[tuple[str, ...], dict[str, str]]],
) -> None:
    line = ["m", "--port", "3", "--stock", "--log-level=error", "--engine", "cpu", "--host-tier"]
    result = CliRunner().invoke(serve.app, line)
    assert isinstance(result.exception, Became), result.output
    ((argv, env),) = became
    assert argv[-3:] == ("--port", "3", "--log-level=error")
    assert "--enable-hierarchical-cache" in argv
    assert "--stock" not in argv
    assert env["SGLANG_PLUGINS"] == "kvflow_cpu"
    assert env["PATH"] == os.environ["PATH"]


def test_bad_settings_are_reported_without_a_traceback(
    became: list[tuple[tuple[str, ...], dict[str, str]]],
) -> None:
    result = CliRunner().invoke(serve.app, ["m", "--kvflow-config", "oops"])
    assert result.exit_code == 2
    assert "--kvflow-config is not JSON" in result.output
    assert became == []


def test_a_missing_sglang_names_the_line_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(serve.app, ["m"])
    assert result.exit_code == 2
    assert "pip install 'kvflow-agents[server]'" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "flags", [["--tp", "2"], ["--tp-size=2"], ["--tensor-parallel-size", "2"], ["--dp-size", "2"]]
)
def test_ranks_of_a_cpu_engine_share_its_cores(flags: list[str]) -> None:
    bound = cpu_engine.CORES_VARIABLE
    alone = serve.command("m", engine=serve.Engine.CPU)
    assert bound not in alone.env
    two = serve.command("m", flags, engine=serve.Engine.CPU)
    shares = [set(share.split(",")) for share in two.env[bound].split("|")]
    assert len(shares) == 2 and set.union(*shares) <= set(map(str, os.sched_getaffinity(0)))
    given = serve.command("m", flags, engine=serve.Engine.CPU, env={bound: "0|0"})
    assert bound not in given.env
    assert bound not in serve.command("m", flags, engine=serve.Engine.GPU).env
