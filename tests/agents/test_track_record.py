"""Forecasts that come true are believed, others are not."""

from __future__ import annotations

from kvflow_agents.expectations import Expectations
from kvflow_agents.forecast import Forecast, Steps
from kvflow_agents.track_record import TrackRecord, came_true


def after(*calls: tuple[str, Steps]) -> bool:
    record = TrackRecord()
    for agent, steps in calls:
        expected = Expectations()
        expected.take_in(Forecast(0, steps))
        record.note_call(came_true(agent, expected))
    return record.is_good


def test_a_newcomer_is_believed() -> None:
    assert TrackRecord().is_good


def is_right(agent: str, steps: Steps) -> bool:
    """Whether a call makes up for a wrong one that goes before; two are too many."""
    return after(WRONG, (agent, steps))


WRONG: tuple[str, Steps] = ("b", {"a": 1, "b": 5})


def test_of_a_branch_every_way_is_right() -> None:
    steps = {"a": 0, "b": 1, "c": 1, "d": 2, "e": None}
    assert [agent for agent in "abcde" if is_right(agent, steps)] == ["a", "b", "c"]


def test_the_nearest_of_all_is_right_however_far() -> None:
    assert is_right("b", {"a": 0, "b": 3, "c": 7})
    assert not is_right("c", {"a": 0, "b": 3, "c": 7})


def test_an_agent_that_was_not_named_tells_nothing() -> None:
    unknown: tuple[str, Steps] = ("x", {"a": 0})
    assert after(unknown, unknown, unknown)
    assert not after(WRONG, WRONG, unknown)


def test_belief_is_lost_and_won_back() -> None:
    right: tuple[str, Steps] = ("a", {"a": 1, "b": 5})
    assert after(WRONG)
    assert after(right, *[right, WRONG] * 50)
    assert after(right, right, WRONG, WRONG)
    assert not after(right, right, WRONG, WRONG, WRONG)
    assert not after(*[WRONG] * 100, right, right, right)
    assert after(*[WRONG] * 100, right, right, right, right)


def test_a_reversed_forecast_is_found_out_with_the_second_call() -> None:
    reversed_steps = {f"agent{each}": 9 - each for each in range(10)}
    assert not after(("agent1", reversed_steps), ("agent2", reversed_steps))
