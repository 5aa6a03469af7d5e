"""`kvflow replay`, as a user runs it."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kvflow_agents.cli import COMMANDS_GROUP


def replay(path: Path, lines: list[str], *options: str) -> Result:
    path.write_text("".join(lines), encoding="utf-8")
    (command,) = (one for one in entry_points(group=COMMANDS_GROUP) if one.name == "replay")
    return CliRunner().invoke(command.load(), [str(path), *options])


def trace(agents: int = 6, rounds: int = 10) -> list[str]:
    lines = []
    for turn in range(agents * rounds):
        agent = turn % agents
        fixed = [agent * 100 + block for block in range(8)]
        line = {
            **{
                "v": 1,
                "at_ms": turn * 1000,
                "workflow": "w",
                "agent": f"[red]a{agent}",
                "app": "x",
            },
            **{"prompt_tokens": 9 * 64, "hash_ids": [*fixed, 10_000 + turn], "block_tokens": 64},
        }
        lines.append(json.dumps(line) + "\n")
    return lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.jsonl"


def test_policies_are_compared_in_a_table_and_in_json(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = replay(path, trace(), "--pool-tokens", str(26 * 64), "--json", str(out))
    assert result.exit_code == 0, result.output
    assert "60 calls, 60 with a forecast" in result.stdout
    document = json.loads(out.read_text())
    assert document["block_tokens"] == 64 and document["calls"] == 60
    policies = {row["policy"]: row for row in document["policies"]}
    assert policies["lru"]["hit_rate"] == 0
    assert policies["ours-device"]["computed_to_lru"] < 0.8
    assert policies["ours-device"]["computed_to_optimum"] >= 1
    assert {row["agent"] for row in policies["lru"]["agents"]} == {f"[red]a{n}" for n in range(6)}


def test_what_is_wrong_with_a_trace_is_said_and_the_rest_replayed(path: Path) -> None:
    lines = ["oops\n", *trace(), trace()[0][:-10]]
    result = replay(path, lines, "--policy", "lru")
    assert result.exit_code == 0
    assert "1 lines skipped: not JSON" in result.stderr
    assert "1 lines skipped: cut short" in result.stderr
    assert "line 1: not JSON" in result.stderr


def test_only_the_first_calls(path: Path) -> None:
    result = replay(path, trace(), "--calls", "7", "--policy", "lru")
    assert "7 calls, 7 with a forecast" in result.stdout


def test_ends_are_no_calls(path: Path) -> None:
    lines = trace()
    lines.insert(3, json.dumps({"v": 1, "kind": "pause", "at_ms": 2500, "workflow": "w"}) + "\n")
    result = replay(path, lines, "--calls", "7", "--policy", "lru")
    assert "7 calls, 7 with a forecast" in result.stdout


def test_a_trace_out_of_order_is_replayed_as_the_one_in_order(path: Path, tmp_path: Path) -> None:
    done = []
    for lines in (trace(), trace()[::-1]):
        out = tmp_path / "out.json"
        result = replay(path, lines, "--pool-tokens", str(26 * 64), "--json", str(out))
        assert result.exit_code == 0
        done.append(json.loads(out.read_text()))
    inverted = done[1]["trace"].pop("mended")
    assert inverted == {"clock went back: put in order": len(trace()) - 1}
    assert done[0]["policies"] == done[1]["policies"]


EXAMPLE = Path(__file__).parents[2] / "demos" / "traces" / "research_team.jsonl"


def test_the_example_that_the_demo_has_recorded(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = replay(path, [EXAMPLE.read_text(encoding="utf-8")], "--json", str(out))
    assert result.exit_code == 0
    document = json.loads(out.read_text())
    trace = document["trace"]
    assert (trace["calls"], trace["skipped"], trace["mended"]) == (56, {}, {})
    policies = {row["policy"]: row for row in document["policies"]}
    assert policies["ours-device"]["computed_to_lru"] < 0.9


MACHINE = ("--machine", "h100-8b")


def test_a_trace_is_replayed_on_a_machine(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    sizes = ("--pool-tokens", str(26 * 64), "--host-tokens", str(200 * 64))
    sides = ("--policy", "hicache", "--policy", "ours", "--policy", "optimum")
    options = (*MACHINE, "--link-gb-per-s", "2", *sizes, *sides, "--json", str(out))
    result = replay(path, [*trace(), json.dumps(TOO_LARGE) + "\n"], *options)
    assert result.exit_code == 0, result.output
    assert "60 calls, 60 with a forecast" in result.stdout
    assert "1 calls left out" in result.stdout
    assert "loaded ahead" in result.stdout
    document = json.loads(out.read_text())
    assert document["machine"]["link_bytes_per_s"] == 2e9
    assert (document["calls"], document["calls_too_large_for_the_pool"]) == (60, 1)
    assert (document["pool_tokens"], document["host_tokens"]) == (26 * 64, 200 * 64)
    policies = {row["policy"]: row for row in document["policies"]}
    assert list(policies) == ["ceiling", "hicache", "ours", "optimum"]
    assert 0 < policies["ours"]["mean_ttft_ms"] < policies["hicache"]["mean_ttft_ms"]
    assert policies["ours"]["prefetch_found_tokens"] > 0
    assert policies["ours"]["computed_of_lru"] <= 1
    assert policies["ours"]["computed_of_optimum"] >= 1
    assert policies["ours"]["elapsed_s"] >= 59 >= document["trace_s"]


TOO_LARGE = {"v": 1, "at_ms": 60_000, "prompt_tokens": 26 * 64 + 1, "block_tokens": 64}


def test_on_a_machine_too_forecasts_and_speed_are_as_asked_for(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = (*MACHINE, "--no-hints", "--speed", "4", "--calls", "10", "--policy", "ours")
    result = replay(path, trace(), *options, "--json", str(out))
    assert "10 calls, 0 with a forecast" in result.stdout
    assert "4 times as fast" in result.stdout
    elapsed_s = json.loads(out.read_text())["policies"][-1]["elapsed_s"]
    assert 9 / 4 < elapsed_s < 9 / 4 + 1


@pytest.mark.parametrize("machine", ["h100-8b", "cpu-tiny"])
def test_the_example_on_a_machine(path: Path, tmp_path: Path, machine: str) -> None:
    documents = []
    for _ in range(2):
        out = tmp_path / "out.json"
        lines = [EXAMPLE.read_text(encoding="utf-8")]
        result = replay(path, lines, "--machine", machine, "--json", str(out))
        assert result.exit_code == 0
        documents.append(out.read_text())
    assert documents[0] == documents[1]
    rows = json.loads(documents[0])["policies"]
    assert {row["calls"] for row in rows} == {56}
    policies = {row["policy"]: row for row in rows}
    assert policies["ours"]["mean_latency_ms"] < policies["hicache"]["mean_latency_ms"]
    assert policies["ours-device"]["computed_of_lru"] < 0.9


def test_a_server_that_is_gone_is_said_and_exits_1(path: Path) -> None:
    result = replay(path, trace(2, 1), "--server", "http://127.0.0.1:9", "--speed", "1000000")
    assert result.exit_code == 1
    assert "2 failed" in result.stdout and "/generate" in result.stdout
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        ([], [], "holds no call"),
        (["{}\n"], [], "holds no call"),
        (trace(), ["--policy", "fifo"], "there is no policy 'fifo'"),
        (trace(), ["--pool-tokens", "3"], "at least a block"),
        (trace(), ["--pool-tokens", "64"], "no call of the trace fits"),
        ([], [*MACHINE], "holds no call"),
        (trace(), [*MACHINE, "--pool-tokens", "64"], "no call of the trace fits"),
        (trace(), ["--machine", "abacus"], "there is no machine 'abacus'"),
        (trace(), [*MACHINE, "--server", "http://127.0.0.1:9"], "not to both"),
        (trace(), [*MACHINE, "--link-gb-per-s", "0"], "link_bytes_per_s must be more than 0"),
        (trace(), [*MACHINE, "--link-gb-per-s", "nan"], "link_bytes_per_s must be more than 0"),
        (trace(), ["--link-gb-per-s", "1"], "needs --machine"),
    ],
)
def test_what_cannot_be_replayed_is_refused_with_the_reason(
    path: Path, lines: list[str], options: list[str], message: str
) -> None:
    result = replay(path, lines, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
