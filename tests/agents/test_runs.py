"""Runs and the apps they share."""

from __future__ import annotations

import gc
import weakref

import pytest

from kvflow_agents import App, Join, StepGraph
from kvflow_agents.apps import MAX_APPS, Apps
from kvflow_agents.hints import workflow_name
from kvflow_agents.runs import Runs, conversation_name


class Team:
    def __init__(self, *agents: str) -> None:
        self.agents = agents


def structure_of(team: Team) -> StepGraph:
    pairs = zip(team.agents, team.agents[1:], strict=False)
    return StepGraph((Join(frozenset({a}), b) for a, b in pairs), agents=team.agents)


def test_two_runs_at_once_have_names_of_their_own() -> None:
    runs, app = Runs(), App(StepGraph())
    first, second = (runs.begin("talk", app, []) for _ in range(2))
    assert first.workflow.name == "talk"
    assert second.workflow.name.startswith("talk#")
    runs.end(first, resumable=True)
    assert runs.begin("talk", app, []).workflow.name == "talk"


def test_a_later_run_of_a_name_has_newer_hints() -> None:
    runs, app = Runs(), App(StepGraph())
    run = runs.begin("talk", app, [])
    last = run.workflow.hint("a").forecast.seq
    runs.end(run, resumable=True)
    assert runs.begin("talk", app, []).workflow.hint("a").forecast.seq > last


def test_a_run_without_a_name_gets_one_and_one_without_an_end_is_forgotten() -> None:
    runs, app = Runs(), App(StepGraph())
    run = runs.begin(None, app, [])
    assert run.workflow.name and len(runs) == 1
    del run
    gc.collect()
    assert len(runs) == 0


@pytest.mark.parametrize("name", ["", "x" * 200, "line\nbreak", "\ud800", "nul\x00"])
def test_a_name_that_no_hint_can_hold_is_hashed(name: str) -> None:
    assert len(workflow_name(name)) == 32
    assert workflow_name(name) == workflow_name(name)


def test_a_name_in_any_script_is_kept() -> None:
    assert workflow_name("Gespräch 7 – 会話") == "Gespräch 7 – 会話"


def test_one_structure_is_one_app_and_is_read_once_for_each_object() -> None:
    read: list[Team] = []

    def reading(team: Team) -> StepGraph:
        read.append(team)
        return structure_of(team)

    apps = Apps(reading)
    one, same, other = Team("a", "b"), Team("a", "b"), Team("b", "a")
    assert apps.of(one) is apps.of(one) is apps.of(same)
    assert apps.of(other) is not apps.of(one)
    assert read == [one, same, other]


def test_objects_are_not_kept_alive_and_apps_are_bounded() -> None:
    apps = Apps(structure_of)
    team = Team("a")
    apps.of(team)
    alive = weakref.ref(team)
    del team
    gc.collect()
    assert alive() is None
    for number in range(MAX_APPS + 5):
        apps.of(Team(f"agent{number}"))
    assert len(apps._by_name) == MAX_APPS


def test_a_conversation_is_named_with_who_takes_part_in_it() -> None:
    def app(*edges: str) -> App:
        return App(StepGraph(Join(frozenset(edge[0]), edge[1]) for edge in edges))

    name = conversation_name("ticket-7", app("ab", "ba"))
    assert name.startswith("ticket-7@") and len(name) == len("ticket-7@") + 8
    assert conversation_name("ticket-7", app("ba")) == name
    assert conversation_name("ticket-7", app("ab", "bc")) != name
    loops = [App(StepGraph(), name=each, is_open=True) for each in ("one", "other")]
    assert len({conversation_name("1", each) for each in loops}) == 2
