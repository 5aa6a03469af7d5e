from __future__ import annotations

import pytest

from kvflow_agents.pace import STEP_MS, STEP_WEIGHT, Pace


def test_calls_tell_how_long_a_step_takes() -> None:
    pace = Pace()
    assert pace.step_ms == STEP_MS
    pace.note_call(0, "a", None)
    pace.note_call(6000, "b", 2)
    assert pace.step_ms == pytest.approx(STEP_MS + STEP_WEIGHT * (3000 - STEP_MS))
    assert not pace.has_ticks


def test_a_tick_lasts_until_who_was_to_call_in_the_next_is_to_call_in_this() -> None:
    pace = Pace()
    pace.note_call(0, "a", None)
    pace.note_changes(100, {"a": 5, "b": 1, "c": 1})
    for at_ms in range(200, 4000, 100):
        pace.note_call(at_ms, "a", 0)
    before_ms = pace.step_ms
    pace.note_changes(4100, {"c": 0, "b": 0})
    # What calls seemed to show counts no more.
    assert (pace.step_ms, pace.has_ticks) == (4000, True)
    assert before_ms < 1000
    pace.note_call(4200, "b", 0)
    pace.note_call(4300, "c", 0)
    assert pace.step_ms == 4000
    pace.note_changes(8100, {"d": 1})
    pace.note_changes(10_100, {"d": 0})
    assert pace.step_ms == pytest.approx(4000 + STEP_WEIGHT * (2000 - 4000))


def test_several_messages_of_one_tick_are_one_tick() -> None:
    pace = Pace()
    for tick in range(3):
        pace.note_changes(1000 * tick, {"a": 1 - tick % 2, "b": 7})
        pace.note_changes(1000 * tick + 5, {"c": 1 - tick % 2, "d": 3})
    assert pace.step_ms == 1000


@pytest.mark.parametrize("later", [{"a": 2}, {"a": None}, {"a": 1}])
def test_who_does_not_come_closer_shows_nothing(later: dict[str, int | None]) -> None:
    pace = Pace()
    pace.note_changes(0, {"a": 1})
    pace.note_changes(5000, later)
    assert (pace.step_ms, pace.has_ticks) == (STEP_MS, False)


def test_who_calls_before_its_tick_shows_nothing() -> None:
    """An inferred conversation is told as a step away when it has its answer, and then calls."""
    pace = Pace()
    pace.note_changes(0, {"a": 1})
    pace.note_call(2000, "a", 1)
    pace.note_changes(3000, {"a": 0})
    assert not pace.has_ticks


def test_messages_of_the_same_time_make_no_tick() -> None:
    pace = Pace()
    pace.note_changes(0, {"a": 1})
    pace.note_changes(0, {"a": 0})
    assert (pace.step_ms, pace.has_ticks) == (STEP_MS, False)
