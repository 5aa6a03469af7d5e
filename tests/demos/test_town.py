"""The town: its course, its distances and its map; and a small one on a real server."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from demos.comparison import POLICIES, Demo, Endpoint
from demos.society import LONGEST_ACTIVITY_TICKS, PLACES, Society
from demos.town import Town, adapter_hit_shares, found_shares, lora_flags, main
from demos.town_map import draw
from kvflow_agents.distance import measure
from kvflow_sglang.server_process import ServerProcess, server_python

SMALL = Town(people=24, ticks=12, words=60, seed=3)
# An adapter each, and slots for a third of them.
ADAPTED = replace(SMALL, adapters=24)


def test_the_default_town_is_as_large_and_as_busy_as_it_says() -> None:
    town = Town(people=200, ticks=30, words=160, seed=7)
    assert 0.15 <= town.active_share <= 0.25
    prompts = sum(len(person.persona) for person in town.society().people.values())
    assert town.pool_tokens < 0.3 * prompts


def test_its_course_depends_on_the_seed_alone() -> None:
    def course(seed: int) -> list[str]:
        society = Society(20, words=20, seed=seed)
        turns = []
        for _ in range(10):
            now = society.tick()
            society.go_on(now)
            turns += [f"{turn.agent}: {turn.reason}" for each in now for turn in each]
        return turns

    assert course(1) == course(1)
    assert course(1) != course(2)


def test_nobody_calls_twice_in_a_tick_and_talks_are_between_two_at_one_place() -> None:
    society = Society(60, words=20, seed=1)
    talks = 0
    for _ in range(20):
        turns = society.tick()
        callers = [turn.agent for each in turns for turn in each]
        assert len(callers) == len(set(callers))
        for each in turns:
            if len(each) == 2:
                talks += 1
                one, other = (society.people[turn.agent] for turn in each)
                assert one.position == other.position == society.places[one.goal]
        society.go_on(turns)
    assert talks > 10


def test_callers_are_at_zero_and_the_others_call_about_when_they_were_said_to() -> None:
    society = Society(60, words=20, seed=1)
    said: dict[str, float] = {}
    errors = []
    for tick in range(30):
        turns = society.tick()
        distances = measure(society.distance(turns), society.people)
        callers = {turn.agent for each in turns for turn in each}
        assert all(distances[agent] == 0 for agent in callers)
        errors += [abs(said.pop(agent) - tick) for agent in callers if agent in said]
        for agent in society.people.keys() - callers:
            distance = distances[agent]
            assert distance is not None
            assert distance <= 3 * LONGEST_ACTIVITY_TICKS
            said[agent] = tick + distance
        society.go_on(turns)
    assert len(errors) > 100
    assert sum(errors) / len(errors) < 1


def test_the_map_is_drawn(tmp_path: Path) -> None:
    society = Society(30, words=20, seed=1)
    for _ in range(5):
        society.go_on(society.tick())
    draw(society, {"stock": {}, "kvflow": dict.fromkeys(society.people, 0.5)}, tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert set(society.places) == set(PLACES)


def test_at_the_end_the_map_is_drawn_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "demos.town.compare_policies", lambda town, *_, **__: Demo(town, Console(quiet=True))
    )
    monkeypatch.setattr("demos.town.found_shares", lambda _: {"kvflow": {}})
    command = typer.Typer()
    command.command()(main)
    result = CliRunner().invoke(command, ["--people", "30", "--ticks", "2"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "town.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, with adapters."""
    folder = tmp_path_factory.mktemp("town") / "tiny"
    make = [str(server_python().with_name("kvflow")), "model", "tiny", str(folder)]
    make += ["--adapters", str(ADAPTED.adapters)]
    subprocess.run(make, check=True, capture_output=True)
    return folder


def run(town: Town, model: Path, flags: Sequence[str], pool_tokens: int) -> Demo:
    """A small town on one server, without hints and with them."""
    demo = Demo(town, Console(quiet=True))
    with ServerProcess(model, flags, log=model.with_name("server.log")) as server:
        endpoint = Endpoint(server.base_url, model.name, "none", town.answer_tokens)
        for policy in POLICIES:
            demo.run_on(endpoint, policy, False, pool_tokens)
    return demo


@pytest.fixture(scope="module")
def demo(model: Path) -> Demo:
    """Without adapters."""
    pool_tokens = 3_600
    flags = ["--enable-metrics", "--skip-server-warmup", "--max-total-tokens", str(pool_tokens)]
    flags += ["--kvflow-config", '{"infer": false}']
    return run(SMALL, model, flags, pool_tokens)


def test_a_small_town_finds_more_prompts_with_hints(demo: Demo) -> None:
    stock, kvflow = demo.runs
    assert stock.calls == kvflow.calls == SMALL.calls
    # By how much depends on what calls meet, and so on the machine.
    assert kvflow.cached_tokens > stock.cached_tokens
    assert found_shares(demo).keys() == set(POLICIES)


def test_its_answers_do_not_depend_on_the_hints(demo: Demo) -> None:
    found = demo.compare()
    assert (found.compared, found.different) == (SMALL.calls, 0)


def test_people_with_adapters_find_them_more_often_with_hints(model: Path) -> None:
    # The pool holds all KV, so that nothing but adapters differs.
    flags = ["--engine", "cpu", *lora_flags(ADAPTED, model), "--max-total-tokens", "40000"]
    adapted = run(ADAPTED, model, flags, 40_000)
    shares = adapter_hit_shares(adapted)
    assert shares["kvflow"] > shares["stock"]
    assert adapted.compare() == (ADAPTED.calls, 0, 0)
