"""Habits: what runs teach, exactly, within bounds, and in the hints of later runs."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvflow_agents import App, Join, StepGraph, Workflow
from kvflow_agents.following import END, MAX_FOLLOWERS
from kvflow_agents.habits import MAX_CALLERS, MAX_SCENES, Habits
from kvflow_agents.hints import MAX_CHANCE, MAX_DUE_MS
from kvflow_agents.trail import MAX_CALLS, Trail


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def run(habits: Habits, *calls: tuple[str, float]) -> None:
    """One run: agents, each with the seconds until the next one's call."""
    clock = Clock()
    trail = Trail(habits, clock)
    for agent, seconds in calls:
        trail.call(agent)
        clock.now_s += seconds
        trail.finish(agent)
    trail.end()


def taught(*runs: Sequence[tuple[str, float]]) -> Habits:
    habits = Habits()
    for calls in runs:
        run(habits, *calls)
    return habits


LINE = (("a", 1.0), ("b", 2.0), ("c", 4.0))


def test_nothing_is_said_before_there_is_evidence() -> None:
    few = taught(*[LINE] * 3)
    assert few.due("a", "c") is None
    assert few.chance_next("a") == {}
    assert few.chance_again("a", {"b": 1}) == {}
    assert few.figures("a", {"b": 1}) == ({}, {})
    assert few.figures("stranger", {"b": 1}) == ({}, {})
    assert few.turn("a") is None


def test_a_line_is_learned_with_its_times_and_its_end() -> None:
    habits = taught(*[LINE] * 20)
    due = habits.due("a", "c")
    assert due is not None and due.median == pytest.approx(3000, rel=0.19)
    steps = {"a": None, "b": 1, "c": 2}
    due_ms, chance = habits.figures("a", steps)
    assert due_ms == {"b": pytest.approx(1000, rel=0.19), "c": pytest.approx(3000, rel=0.19)}
    assert chance == {"a": 0, "b": 98, "c": 98}
    assert habits.chance_next("a", ["b"])["b"] > 0.97
    assert habits.chance_next("c")[END] == pytest.approx(1.0)


def test_repeats_and_switches_are_apart() -> None:
    habits = taught(*[(("a", 0.1), ("a", 0.1), ("a", 10.0), ("b", 1.0))] * 30)
    again, switch = habits.due("a", "a"), habits.due("a", "b")
    assert again is not None and again.quantile(0.9) < 120
    # Of a's three calls b comes after 10.2, 10.1 and 10 s.
    assert switch is not None and switch.quantile(0.1) > 8_000
    assert habits.chance_next("a", ["a", "b"])["a"] == pytest.approx(2 / 3, abs=0.06)
    assert habits.chance_again("a", {"a": 0})["a"] == pytest.approx(2 / 3, abs=0.06)
    assert habits.chance_again("a", {"b": 1})["b"] > 0.95


def test_an_agent_the_structure_excludes_and_no_run_has_shown_has_no_chance() -> None:
    habits = taught(*[LINE] * 5)
    chance = habits.chance_again("c", {"a": None, "b": 3})
    assert chance["a"] == 0.0
    assert 0.0 < chance["b"] < 0.1


def test_a_turn_is_all_of_an_agents_work() -> None:
    habits = taught(*[LINE] * 9)
    turn = habits.turn("b")
    assert turn is not None and turn.median == pytest.approx(2000, rel=0.19)


def test_what_changes_is_learned_anew() -> None:
    habits = taught(*[(("a", 1.0), ("b", 1.0))] * 300)
    for _ in range(2400):
        run(habits, ("a", 1.0), ("c", 1.0))
    assert habits.chance_again("a", {"b": 1})["b"] < 0.06
    assert habits.chance_next("a")["c"] > 0.94


def test_a_run_without_end_teaches_too() -> None:
    habits, clock = Habits(), Clock()
    trail = Trail(habits, clock)
    for number in range(3 * MAX_CALLS):
        trail.call("ab"[number % 2])
        clock.now_s += 1.0
    assert habits.chance_next("a")["b"] > 0.95
    assert habits.chance_again("a", {"b": 1})["b"] > 0.95


def test_what_is_known_is_bounded() -> None:
    habits = Habits()
    for number in range(0, 1001, 25):
        run(habits, *((f"agent{number + other}", 0.1) for other in range(100)))
    dumped = habits.dump()
    assert len(dumped["callers"]) <= MAX_CALLERS
    assert len(dumped["turns"]) <= MAX_CALLERS
    for caller in dumped["callers"].values():
        assert all(len(caller[what]) <= MAX_FOLLOWERS for what in ("next", "again", "gaps"))
    assert "agent1098" in dumped["callers"]
    assert "agent0" not in dumped["callers"]


RUNS = st.lists(
    st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 1e5)), max_size=12), max_size=12
)


@given(RUNS)
@settings(deadline=None)
def test_chances_are_chances_and_times_are_in_order(
    runs: list[list[tuple[str, float]]],
) -> None:
    habits = taught(*runs)
    steps = {"a": 0, "b": 1, "c": None, "new": 2}
    for caller in "abcd":
        chance_next = habits.chance_next(caller, ["a", "new"])
        assert all(0.0 <= chance <= 1.0 for chance in chance_next.values())
        assert not chance_next or sum(chance_next.values()) == pytest.approx(1.0)
        again = habits.chance_again(caller, steps)
        assert all(0.0 <= chance <= 1.0 for chance in again.values())
        for agent, chance in again.items():
            # Who is next is called again. A guess of the structure is shared differently.
            assert chance_next.get(agent, 0.0) <= chance + 1 / 5
        due_ms, percent = habits.figures(caller, steps)
        assert due_ms.keys() | percent.keys() <= steps.keys()
        assert all(0 <= ms <= MAX_DUE_MS for ms in due_ms.values())
        assert all(0 <= one <= MAX_CHANCE for one in percent.values())
        for agent in "abcd":
            if delay := habits.due(caller, agent):
                assert list(delay.points) == sorted(delay.points)


@given(RUNS)
@settings(deadline=None)
def test_habits_come_back_from_json(runs: list[list[tuple[str, float]]]) -> None:
    habits = taught(*runs)
    again = Habits()
    again.load(json.loads(json.dumps(habits.dump())))
    steps = {"a": 0, "b": 1, "c": None}
    for caller in "abcd":
        assert again.chance_again(caller, steps) == pytest.approx(
            habits.chance_again(caller, steps), abs=1e-6
        )
        for agent in "abcd":
            one, other = again.due(caller, agent), habits.due(caller, agent)
            assert one is None if other is None else one is not None
            if one and other:
                assert one.points == pytest.approx(other.points)


def test_what_was_kept_does_not_replace_what_is_known_better() -> None:
    kept = taught(*[(("a", 1.0), ("b", 1.0))] * 20).dump()
    habits = taught(*[(("a", 9.0), ("b", 1.0))] * 25)
    habits.load(kept)
    due = habits.due("a", "b")
    assert due is not None and due.median == pytest.approx(9000, rel=0.19)


@pytest.mark.parametrize(
    "dumped",
    [
        None,
        [],
        {},
        {"callers": {}, "turns": {"a": {"1": "x"}}},
        {"callers": {"a": {}}, "turns": {}},
        {"callers": {"a": {"fates": -1, "next": {}, "again": {}, "gaps": {}}}, "turns": {}},
        {"callers": {"a": {"fates": 1, "next": {"b": 1e30}, "again": {}, "gaps": {}}}, "turns": {}},
        {"callers": {"a": {"fates": 1, "next": [], "again": {}, "gaps": {}}}, "turns": {}},
    ],
)
def test_what_is_not_habits_is_refused_whole(dumped: object) -> None:
    habits = taught(*[LINE] * 9)
    before = habits.dump()
    with pytest.raises(ValueError):
        habits.load(dumped)
    assert habits.dump() == before


def test_threads_teach_one_application_at_once() -> None:
    habits = Habits()
    steps = {"a": 0, "b": 1, "c": 2}

    def work() -> None:
        for _ in range(200):
            run(habits, *LINE)
            habits.figures("a", steps)
            habits.dump()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert habits.figures("a", steps)[1] == {"a": 0, "b": 100, "c": 100}


def scene_of(habits: Habits, *agents: str) -> str:
    """The scene of the last agent's call, after those of the others."""
    trail = Trail(habits, Clock())
    for agent in agents[:-1]:
        trail.call(agent)
    return trail.scene(agents[-1])


QUICK = (("front", 1.0), ("mid", 1.0), ("quick", 1.0))
SLOW = (("front", 1.0), ("desk", 1.0), ("mid", 60.0), ("slow", 1.0), ("quick", 1.0))


def test_who_has_called_before_tells_what_kind_of_run_it_is() -> None:
    habits = taught(*[QUICK, SLOW] * 30)
    steps = {"quick": 1, "slow": 1}
    quick, slow = scene_of(habits, "front", "mid"), scene_of(habits, "desk", "front", "mid")
    assert habits.chance_again("mid", steps)["slow"] == pytest.approx(0.5, abs=0.1)
    assert habits.chance_again("mid", steps, quick)["slow"] < 0.1
    assert habits.chance_again("mid", steps, slow)["slow"] > 0.9
    assert habits.chance_next("mid", steps, quick)["quick"] > 0.9
    assert habits.chance_next("mid", steps, slow)["slow"] > 0.9
    due_ms, chance = habits.figures("mid", steps, quick)
    assert due_ms["quick"] == pytest.approx(1000, rel=0.19)
    assert chance["quick"] > 95 and chance["slow"] < 10
    assert habits.figures("mid", steps, slow)[0]["quick"] == pytest.approx(61_000, rel=0.19)


def test_in_a_scene_that_is_new_the_callers_habits_count() -> None:
    habits = taught(*[QUICK] * 30)
    new = scene_of(habits, "stranger", "front", "mid")
    steps = {"quick": 1}
    assert habits.figures("mid", steps, new) == habits.figures("mid", steps) != ({}, {})
    assert habits.due("mid", "quick", new) is not None


def test_a_scene_begins_anew_after_a_pause() -> None:
    trail = Trail(Habits(), Clock())
    first = trail.scene("a")
    trail.call("a")
    assert trail.scene("a") != first
    trail.pause()
    assert trail.scene("a") == first


def test_calls_of_workflows_that_only_pause_are_noted() -> None:
    habits, clock = Habits(), Clock()
    scene = ""
    for _ in range(20):
        trail = Trail(habits, clock)
        scene = trail.call("a")
        clock.now_s += 1.0
        trail.pause()
    assert habits.chance_next("a") == {}  # each may go on
    assert habits.noted_calls(scene) == pytest.approx(20, rel=0.1)


def test_scenes_are_bounded_and_kept() -> None:
    habits = taught(*[(("a", 1.0), (f"b{number}", 1.0), ("c", 1.0)) for number in range(300)])
    dumped = json.loads(json.dumps(habits.dump()))
    assert len(dumped["scenes"]) == MAX_SCENES
    again = Habits()
    again.load(dumped)
    assert again.dump()["scenes"].keys() == dumped["scenes"].keys()
    del dumped["scenes"]  # as older versions kept it
    again.load(dumped)


def edge(source: str, target: str) -> Join:
    return Join(frozenset({source}), target)


def test_later_runs_say_when_and_how_likely() -> None:
    app, clock = App(StepGraph([edge("a", "b"), edge("b", "a"), edge("b", "c")])), Clock()
    chance = random.Random(1)
    for number in range(100):
        workflow = Workflow("run", app, first_seq=0, clock=clock)
        first = True
        while first or chance.random() < 0.5:
            for agent in "ab":
                workflow.plan("", [agent])
                hint = workflow.hint(agent)
                if number == 0 and first:
                    assert not hint.forecast.due_ms and not hint.forecast.chance
                clock.now_s += 2.0
            first = False
        workflow.plan("", ["c"])
        workflow.hint("c")
        clock.now_s += 1.0
        workflow.end(resumable=False)
    workflow = Workflow("run", app, first_seq=0, clock=clock)
    workflow.plan("", ["a"])
    forecast = workflow.hint("a").forecast
    assert forecast.steps == {"a": 0, "b": 1, "c": 2}
    assert forecast.due_ms["b"] == pytest.approx(2000, rel=0.19)
    assert forecast.due_ms["a"] == pytest.approx(4000, rel=0.19)
    assert forecast.chance["a"] == pytest.approx(50, abs=20)
    assert forecast.chance["c"] >= 99


def test_an_agent_never_seen_after_the_caller_is_due_along_the_graph() -> None:
    graph = StepGraph([edge("a", "b"), edge("b", "c")])
    app, clock = App(graph), Clock()
    for _ in range(6):
        workflow = Workflow("run", app, first_seq=0, clock=clock)
        for agent in "ab":
            workflow.plan("", [agent])
            workflow.hint(agent)
            clock.now_s += 3.0
        workflow.finish("", "b")
        workflow.end(resumable=False)
    workflow = Workflow("run", app, first_seq=0, clock=clock)
    workflow.plan("", ["a"])
    forecast = workflow.hint("a").forecast
    assert forecast.due_ms["c"] == pytest.approx(6000, rel=0.2)
    assert forecast.chance["c"] < 10


def test_what_was_kept_of_turns_tells_times_along_the_graph_at_once() -> None:
    graph = StepGraph([edge("a", "b"), edge("b", "c")])
    habits = Habits()
    for agent in "abc" * 8:
        habits.note_turn(agent, 3000.0)
    app = App(graph)
    app.timing.habits.load(habits.dump())
    workflow = Workflow("run", app, first_seq=0)
    workflow.plan("", ["a"])
    assert workflow.hint("a").forecast.due_ms["c"] == pytest.approx(6000, rel=0.2)
