"""What is known of agents after whole forecasts and changes, in whatever order they come."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvflow_agents import expectations
from kvflow_agents.expectations import Expectations
from kvflow_agents.forecast import Forecast

STEPS = st.dictionaries(st.sampled_from("abcdef"), st.none() | st.integers(0, 9), max_size=6)


def changes(seq: int, steps: Mapping[str, int | None]) -> Forecast:
    return Forecast(seq, steps, changes=True)


def told(*forecasts: Forecast) -> Expectations:
    expected = Expectations()
    for forecast in forecasts:
        expected.take_in(forecast)
    return expected


def test_changes_amend_and_a_whole_forecast_replaces() -> None:
    expected = told(Forecast(1, {"a": 1, "b": 2}), changes(2, {"b": 0, "c": None}))
    assert expected.steps == {"a": 1, "b": 0, "c": None}
    assert set(expected.take_in(Forecast(3, {"c": 4})) or ()) == {"a", "b", "c"}
    assert expected.steps == {"c": 4}


def test_changes_alone_are_enough() -> None:
    assert told(changes(1, {"a": 1}), changes(2, {"b": 2})).steps == {"a": 1, "b": 2}


def test_an_older_change_counts_for_agents_of_whom_nothing_newer_was_heard() -> None:
    expected = told(changes(9, {"a": 0}))
    assert expected.take_in(changes(8, {"a": 5, "b": 5})) == ["b"]
    assert (expected.steps, expected.seq) == ({"a": 0, "b": 5}, 9)


@pytest.mark.parametrize("late", [changes(9, {"a": 1}), changes(8, {"a": 1}), changes(8, {})])
def test_what_was_heard_or_overtaken_is_too_old(late: Forecast) -> None:
    expected = told(changes(9, {"a": 0}))
    assert expected.take_in(late) is None
    assert expected.steps == {"a": 0}


def test_changes_older_than_a_whole_forecast_and_whole_ones_overtaken_are_too_old() -> None:
    expected = told(Forecast(5, {"a": 0}))
    assert expected.take_in(changes(4, {"b": 1})) is None
    assert expected.take_in(changes(7, {"b": 1})) == ["b"]
    assert expected.take_in(Forecast(6, {"c": 1})) is None
    assert expected.steps == {"a": 0, "b": 1}


@given(st.lists(STEPS, max_size=8), st.randoms())
def test_changes_in_any_order_and_repeated_end_the_same(each_steps: list, random: object) -> None:  # type: ignore[type-arg]
    messages = [changes(seq, steps) for seq, steps in enumerate(each_steps)]
    shuffled = messages + messages
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert told(*shuffled).steps == told(*messages).steps


@given(st.lists(st.tuples(st.booleans(), STEPS), max_size=30))
def test_the_nearest_agents_are_found_without_a_look_at_all(messages: list) -> None:  # type: ignore[type-arg]
    expected = Expectations()
    for seq, (is_change, steps) in enumerate(messages):
        before = dict(expected.steps)
        concerned = expected.take_in(Forecast(seq, steps, changes=is_change))
        assert concerned is not None
        differing = {a for a in before.keys() | expected.steps.keys()}
        differing = {a for a in differing if before.get(a) != expected.steps.get(a)}
        assert differing <= set(concerned)
        later = [count for count in expected.steps.values() if count]
        assert expected.nearest() == (min(later) if later else None)
        for count in range(10):
            at = {agent for agent, said in expected.steps.items() if said == count}
            assert set(expected.at(count)) == at


def test_of_agents_as_near_those_told_last_come_last() -> None:
    expected = told(changes(1, {"a": 0, "b": 0, "c": 0}), changes(2, {"a": 0}))
    assert list(expected.at(0)) == ["b", "c", "a"]


def test_many_changes_leave_nothing_behind() -> None:
    expected = Expectations()
    for seq in range(10_000):
        expected.take_in(changes(seq, {"a": seq % 997, "b": 3}))
    assert len(expected._later) < 100


def test_agents_are_bounded_and_those_not_expected_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(expectations, "MAX_AGENTS_TOLD", 3)
    expected = told(changes(1, {"a": None, "b": 1, "c": 2}), changes(2, {"d": 3}))
    assert expected.steps == {"b": 1, "c": 2, "d": 3}
    assert expected.take_in(changes(3, {"e": 0, "b": 0})) == ["b"]
    assert expected.steps == {"b": 0, "c": 2, "d": 3}


def test_times_and_chances_are_amended_with_the_steps() -> None:
    known = Expectations()
    known.take_in(Forecast(1, {"a": 1, "b": 2}, due_ms={"a": 10, "b": 20}, chance={"b": 90}))
    changes = Forecast(2, {"b": 3, "c": 1}, changes=True, due_ms={"c": 5}, chance={"b": 80})
    known.take_in(changes)
    assert known.due_ms == {"a": 10, "c": 5}
    assert known.chance == {"b": 80}
    known.take_in(Forecast(3, {"a": 0}))
    assert known.due_ms == known.chance == {}
