"""Forecasts that come true are believed, others are not."""

from __future__ import annotations

from kvflow_agents.forecast import Steps
from kvflow_agents.track_record import TrackRecord


def after(*calls: tuple[str, Steps]) -> bool:
    record = TrackRecord()
    for agent, steps in calls:
        record.note_call(agent, steps)
    return record.is_good


def test_a_newcomer_is_believed() -> None:
    assert TrackRecord().is_good


def test_of_a_branch_every_way_is_right() -> None:
    steps = {"a": 0, "b": 1, "c": 1, "d": 2, "e": None}
    assert all(after((agent, steps)) for agent in "abc")
    assert not any(after((agent, steps)) for agent in "de")


def test_the_nearest_of_all_is_right_however_far() -> None:
    assert after(("b", {"a": 0, "b": 3, "c": 7}))
    assert not after(("c", {"a": 0, "b": 3, "c": 7}))


def test_an_agent_that_was_not_named_tells_nothing() -> None:
    unknown: tuple[str, Steps] = ("x", {"a": 0})
    assert after(unknown, unknown)
    assert not after(("b", {"b": None}), unknown)


def test_belief_is_lost_and_won_back() -> None:
    right: tuple[str, Steps] = ("a", {"a": 1, "b": 5})
    wrong: tuple[str, Steps] = ("b", {"a": 1, "b": 5})
    assert after(right, right, wrong)
    assert not after(right, *[wrong] * 3)
    assert not after(*[wrong] * 100, right, right, right)
    assert after(*[wrong] * 100, right, right, right, right)


def test_a_reversed_forecast_is_found_out_at_once() -> None:
    reversed_steps = {f"agent{each}": 9 - each for each in range(10)}
    assert not after(("agent1", reversed_steps))
