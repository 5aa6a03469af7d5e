"""Who of those who may call next is worth a load: by when it is due, and by who was called."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvflow_agents.next_callers import TOGETHER, NextCallers, due_together

APP = "app"


def test_who_is_due_much_later_is_not_next() -> None:
    waits_ms = {"next": 100.0, "soon": 100.0 * TOGETHER, "later": 100.0 * TOGETHER + 1.0}
    assert due_together(waits_ms) == {"next", "soon"}
    assert due_together({}) == frozenset()


@given(st.dictionaries(st.text(max_size=2), st.floats(1, 1e9), min_size=1))
def test_the_first_who_is_due_is_always_next(waits_ms: dict[str, float]) -> None:
    assert min(waits_ms, key=lambda agent: waits_ms[agent]) in due_together(waits_ms)


def test_who_is_passed_over_is_not_likely_until_it_is_called_again() -> None:
    callers = NextCallers()
    assert callers.is_likely(APP, "critic")  # nothing is known of it
    for _ in range(5):
        callers.judge(APP, {"writer", "critic"}, at_work={"writer"})
    assert callers.is_likely(APP, "writer") and not callers.is_likely(APP, "critic")
    for _ in range(4):
        callers.judge(APP, {"critic"}, at_work={"critic"})
    assert callers.is_likely(APP, "critic")


def test_an_end_calls_nobody() -> None:
    callers = NextCallers()
    for _ in range(2):
        callers.judge(APP, {"writer"})
    assert not callers.is_likely(APP, "writer")


def test_who_is_expected_still_is_not_judged() -> None:
    callers = NextCallers()
    for _ in range(9):
        callers.judge(APP, {"left", "right"}, are_next={"right"}, at_work={"left"})
    assert callers.is_likely(APP, "right")


def test_applications_are_judged_apart() -> None:
    callers = NextCallers()
    for _ in range(9):
        callers.judge(APP, {"writer"})
    assert callers.is_likely("another", "writer")


def test_what_is_kept_is_bounded() -> None:
    callers = NextCallers(most_agents=2)
    for agent in ("first", "second", "third"):
        for _ in range(9):
            callers.judge(APP, {agent})
    # Forgotten is who was judged longest ago.
    assert callers.is_likely(APP, "first")
    assert not callers.is_likely(APP, "second") and not callers.is_likely(APP, "third")
