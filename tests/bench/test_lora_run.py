"""The whole command where agents have adapters, on a real server: the tiny model, CPU engine."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from kvflow_bench.cli import app

AGENTS = 4
ROUNDS = 3
# Two slots hold four of six adapters in memory; the others come from disk.
SIZES = ("--agents", AGENTS, "--adapters", 6, "--slots", 2, "--rounds", ROUNDS)


def test_a_model_without_weights_serves_agents_with_adapters_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    arguments = [
        *("run", "--preset", "lora-cpu", "--workload", "lora-cycle", "--arm", "kvflow-overlap"),
        *(*SIZES, "--fixed-tokens", 40, "--repeats", 1, "--json", path, "--engine", "cpu"),
        *("--logs", tmp_path / "logs", "--load-format", "dummy", "--skip-server-warmup"),
    ]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    (session,) = json.loads(path.read_text())["sessions"]
    command = session["servers"]["kvflow-overlap"]["command"]
    assert "KVFLOW_BENCH_DUMMY_BASE=1" in command
    assert "--max-loaded-loras 4" in command and "a3=" in command and "a4=" not in command
    (run,) = session["runs"]
    counters = run["counters"]
    assert counters["kvflow/lora_requests"] == run["figures"]["calls"] == AGENTS * ROUNDS
    # One call at a time, so that one slot is free for the next.
    assert counters["kvflow/lora_prefetches_used"] > AGENTS * ROUNDS / 2
    assert "lora requests" in result.output
