"""The whole command on real servers: the tiny model on the CPU engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kvflow_bench import document
from kvflow_bench.arms import SERVERS
from kvflow_bench.cli import app
from kvflow_bench.fleet import Fleet, Launch
from kvflow_bench.instruments import VARIABLE

AGENTS = 12
FIXED_TOKENS = 100
ROUNDS = 2
SIZES = {
    "--agents": AGENTS,
    "--fixed-tokens": FIXED_TOKENS,
    "--dynamic-tokens": 8,
    "--output-tokens": 3,
    "--rounds": ROUNDS,
}
# Room for eight of twelve prefixes, and for four calls of the race at once.
POOL_TOKENS = 900
COMMAND = "KVFLOW_X=1 kvflow serve tiny --flag a=b"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from kvflow_sglang import model, tiny_model

    made = tmp_path_factory.mktemp("bench")
    model.make(made / "tiny", tiny_model.write)
    return made


@pytest.fixture(scope="module")
def switches(folder: Path) -> Path:
    """The file of the server's switches, which are off while there is none."""
    return folder / "switches.json"


@pytest.fixture(scope="module")
def url(folder: Path, switches: Path) -> Iterator[str]:
    """One server for everything: it is both what is tested and the race's reference."""
    launch = Launch(
        str(folder / "tiny"),
        "cpu",
        pool_tokens=POOL_TOKENS,
        ceiling_tokens=POOL_TOKENS,
        log_folder=folder,
        flags=("--skip-server-warmup",),
        host_flags=("--hicache-ratio", "6"),
        env={"SGLANG_PLUGINS": "kvflow_instruments", "KVFLOW_BENCH_SWITCHES": str(switches)},
    )
    with Fleet([SERVERS["kvflow"]], {}, launch) as fleet:
        assert " kvflow serve " in fleet.commands["kvflow"]
        yield fleet.urls["kvflow"]


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def results(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "results.json"
    arms = [part for arm in ("kvflow", "kvflow-unhinted") for part in ("--arm", arm)]
    sizes = [part for pair in SIZES.items() for part in pair]
    result = bench(
        *("run", "--workload", "single", *arms, "--repeats", 2, *sizes),
        *("--server", f"kvflow={url}", "--server-command", f"kvflow={COMMAND}", "--json", path),
    )
    assert result.exit_code == 0, result.output
    assert result.output.count("#0") == result.output.count("#1") == 2
    return path


def test_every_counted_call_of_every_run_is_in_the_document(results: Path, url: str) -> None:
    (session,) = json.loads(results.read_text())["sessions"]
    server = session["servers"]["kvflow"]
    assert (server["url"], server["settings"]["max_total_num_tokens"]) == (url, POOL_TOKENS)
    assert server["command"] == COMMAND
    runs: list[dict[str, Any]] = session["runs"]
    order = [(run["arm"], run["repeat"]) for run in runs]
    forwards = ["kvflow", "kvflow-unhinted"]
    assert order == [(arm, 0) for arm in forwards] + [(arm, 1) for arm in reversed(forwards)]
    for run in runs:
        calls = run["calls"]
        assert calls["prompt_tokens"] == [FIXED_TOKENS + 8] * AGENTS * ROUNDS
        assert calls["output_tokens"] == [3] * AGENTS * ROUNDS
        # Warmed up: every counted call finds its prefix, on one tier or the other.
        tiers = zip(calls["device_tokens"], calls["host_tokens"], strict=True)
        assert [device + host for device, host in tiers] == [FIXED_TOKENS] * AGENTS * ROUNDS
        pairs = zip(calls["ttft_ms"], calls["latency_ms"], strict=True)
        assert all(0 < first <= whole for first, whole in pairs)
        assert calls["output_hash"] == runs[0]["calls"]["output_hash"]
        assert run["counters"]["evicted_tokens_total"] > 0
        hints = AGENTS * ROUNDS if run["hints"] == "exact" else 0
        assert run["counters"].get("kvflow/hints_accepted", 0) == hints
    # Hints were heard, and recency alone finds nothing of a cycle on the device.
    told, untold = runs[0]["calls"], runs[1]["calls"]
    assert sum(untold["device_tokens"]) == 0 < sum(told["device_tokens"])


def test_a_report_and_plots_are_made_of_it(results: Path, tmp_path: Path) -> None:
    report = bench("report", results)
    assert report.exit_code == 0, report.output
    assert "single: time" in report.output and "0 of 24" in report.output
    drawn = bench("plot", results, "--out", tmp_path)
    assert drawn.exit_code == 0, drawn.output
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"latency-ratio.svg", "ttft.svg", "tokens-by-source.svg"}
    svg = (tmp_path / "ttft.svg").read_text()
    assert "kvflow-unhinted" in svg and "single" in svg


def test_a_race_passes_when_all_answers_are_equal(url: str) -> None:
    servers = ["--server", f"with={url}", "--server", f"without={url}"]
    result = bench("race", "--requests", 64, "--twice", *servers)
    assert result.exit_code == 0, result.output
    assert "64 requests" in result.output and " 0 answers differ" in result.output
    assert "differs from itself in 0" in result.output


@pytest.mark.parametrize("is_fenced", [True, False])
def test_the_race_test_sees_a_missing_fence(
    url: str, switches: Path, is_fenced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slots are poisoned, and their KV comes some passes later than it was started."""
    monkeypatch.setenv(VARIABLE, str(switches))
    path = tmp_path / "race.json"
    on = {"poison": True, "defer_passes": 3, "unfenced": not is_fenced}
    switches.write_text(json.dumps(on))
    try:
        servers = ["--server", f"with={url}", "--server", f"without={url}"]
        started = ["--server-command", "with=kvflow serve tiny"]
        result = bench("race", "--requests", 64, *servers, *started, "--json", path)
    finally:
        switches.unlink()
    assert result.exit_code == (0 if is_fenced else 1), result.output
    (session,) = document.load([path])
    assert session["race"]["is_passed"] == is_fenced and session["race"]["switches"] == on
    assert session["servers"]["with"]["command"] == "kvflow serve tiny"
    assert (" 0 answers differ" in result.output) == is_fenced
    assert "nothing was tested" not in result.output


def test_stock_servers_are_started_and_compared(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    sizes = [part for pair in (SIZES | {"--agents": 4}).items() for part in pair]
    result = bench(
        *("run", "--engine", "cpu", "--model", folder / "tiny", "--logs", tmp_path),
        *("--workload", "single", "--arm", "lru", "--arm", "hicache", "--repeats", 1, *sizes),
        *("--pool-tokens", 340, "--json", path, "--skip-server-warmup"),
    )
    assert result.exit_code == 0, result.output
    (session,) = json.loads(path.read_text())["sessions"]
    lru, hicache = session["runs"]
    assert all("--stock" in server["command"] for server in session["servers"].values())
    # Room for three of four agents: recency finds nothing of their cycle, but on the host.
    calls = 4 * ROUNDS
    assert lru["calls"]["device_tokens"] == lru["calls"]["host_tokens"] == [0] * calls
    tiers = zip(hicache["calls"]["device_tokens"], hicache["calls"]["host_tokens"], strict=True)
    assert [device + host for device, host in tiers] == [FIXED_TOKENS] * calls
    assert sum(hicache["calls"]["host_tokens"]) > 0
    assert lru["calls"]["output_hash"] == hicache["calls"]["output_hash"]


def test_failed_runs_are_reported_and_the_others_go_on(url: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    gone = "lru=http://127.0.0.1:9"
    result = bench(
        *("run", "--workload", "single", "--repeats", 1, "--arm", "lru", "--arm", "kvflow"),
        *("--agents", 2, "--fixed-tokens", 20, "--rounds", 1, "--json", path),
        *("--server", gone, "--server", f"kvflow={url}"),
    )
    assert result.exit_code == 1, result.output
    (session,) = json.loads(path.read_text())["sessions"]
    assert ["error" in run for run in session["runs"]] == [True, False]
