"""`kvflow simulate`, as a user runs it."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kvflow_agents.cli import COMMANDS_GROUP

SMALL = ("--preset", "cpu", "--workload", "single", "--machine", "cpu-tiny", "--agents", "6")
SIZES = ("--fixed-tokens", "100", "--dynamic-tokens", "10", "--output-tokens", "5")
POOLS = ("--pool-tokens", "330", "--host-tokens", "2000", "--rounds", "20")


def simulate(*options: str) -> Result:
    (command,) = (one for one in entry_points(group=COMMANDS_GROUP) if one.name == "simulate")
    return CliRunner().invoke(command.load(), [*SMALL, *SIZES, *POOLS, *options])


def rows(path: Path, *options: str) -> dict[str, dict[str, Any]]:
    result = simulate("--json", str(path), *options)
    assert result.exit_code == 0, result.output
    document = json.loads(path.read_text())
    assert document["sizes"]["pool_tokens"] == 330
    return {row["policy"]: row for row in document["results"]}


def test_policies_are_compared_in_a_table_and_in_json(tmp_path: Path) -> None:
    result = simulate()
    assert result.exit_code == 0, result.output
    for word in ("single", "ceiling", "lru", "hicache", "papers", "ours", "optimum", "hit rate"):
        assert word in result.stdout
    found = rows(tmp_path / "out.json")
    assert list(found) == ["ceiling", "lru", "hicache", "papers", "ours", "optimum"]
    assert found["lru"]["calls"] == 6 * 20
    assert (found["lru"]["hit_rate"], found["lru"]["host_tokens"]) == (0, 0)
    for row in found.values():
        counts = ("kept_tokens", "prefetch_found_tokens", "host_tokens", "computed_tokens")
        assert sum(row[count] for count in counts) == row["prompt_tokens"]


def test_what_is_computed_is_compared_with_the_optimum_of_the_same_tiers(tmp_path: Path) -> None:
    sides = ("lru", "ours-device", "optimum-device", "hicache", "optimum")
    chosen = [word for side in sides for word in ("--policy", side)]
    found = rows(tmp_path / "out.json", *chosen)
    assert found["ceiling"]["computed_of_optimum"] is None
    assert found["optimum"]["computed_of_optimum"] == 1
    assert 1 <= found["ours-device"]["computed_of_optimum"] < found["lru"]["computed_of_optimum"]
    assert found["lru"]["computed_of_optimum"] == pytest.approx(
        found["lru"]["computed_tokens"] / found["optimum-device"]["computed_tokens"]
    )
    assert found["hicache"]["latency_of_ceiling"] >= 1


def test_hints_may_be_exact_learned_absent_or_wrong(tmp_path: Path) -> None:
    kept = {
        hints: rows(tmp_path / "out.json", "--policy", "ours-device", "--hints", hints)[
            "ours-device"
        ]["kept_tokens"]
        for hints in ("exact", "learned", "absent", "shuffled", "reversed")
    }
    assert kept["exact"] > 0 and kept["learned"] > 0
    assert kept["absent"] == 0
    assert max(kept["shuffled"], kept["reversed"]) < kept["exact"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "fifo"], "there is no policy 'fifo'"),
        (["--hints", "psychic"], "there are no 'psychic' hints"),
        (["--machine", "abacus"], "there is no machine 'abacus'"),
        (["--preset", "moon"], "moon"),
        (["--pool-tokens", "50"], "does not fit in the pool"),
    ],
)
def test_what_cannot_be_simulated_is_refused_with_the_reason(
    options: list[str], message: str
) -> None:
    result = simulate(*options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
