from __future__ import annotations

import pytest

from kvflow_agents.promise import Promise


def kept(promise: Promise, wait_ms: int, came_after_ms: int, times: int) -> None:
    for each in range(times):
        begin_ms = each * 1_000_000
        promise.make(begin_ms, wait_ms)
        promise.keep(begin_ms + came_after_ms)


def test_promises_that_are_kept_count_as_they_are() -> None:
    promise = Promise()
    kept(promise, 500, 500, 20)
    assert promise.corrected_ms(700, 0) == pytest.approx(700)


def test_who_always_comes_later_is_expected_later() -> None:
    promise = Promise()
    kept(promise, 1000, 8000, 60)
    # But for a factor of two, which may be chance.
    assert promise.corrected_ms(1000, 0) == pytest.approx(8000 / 2, rel=0.01)


def test_who_comes_sooner_is_expected_sooner_within_bounds() -> None:
    promise = Promise()
    kept(promise, 1_000_000, 1, 60)
    assert promise.corrected_ms(1000, 0) == pytest.approx(250 * 2, rel=0.01)


def test_the_first_promise_counts_until_the_call() -> None:
    promise = Promise()
    for _ in range(60):
        promise.make(0, 1000)
        promise.make(3500, 500)
        promise.keep(4000)
    assert promise.corrected_ms(1000, 0) == pytest.approx(4000 / 2, rel=0.01)


def test_who_is_overdue_is_expected_after_as_long_again() -> None:
    promise = Promise()
    promise.make(0, 1000)
    assert promise.corrected_ms(1000, 500) == 1000
    assert promise.corrected_ms(1000, 6000) == 6000


def test_a_promise_that_is_dropped_teaches_nothing() -> None:
    promise = Promise()
    promise.make(0, 1000)
    promise.drop()
    promise.keep(1_000_000)
    assert promise.corrected_ms(1000, 2_000_000) == 1000


def test_a_call_without_a_promise_teaches_nothing() -> None:
    promise = Promise()
    promise.keep(5)
    assert promise.corrected_ms(1000, 0) == 1000


def test_within_a_factor_of_two_nothing_is_corrected() -> None:
    promise = Promise()
    kept(promise, 1000, 1900, 60)
    assert promise.corrected_ms(1000, 0) == 1000


def test_what_was_said_in_steps_is_judged_by_what_a_step_takes_now() -> None:
    promise = Promise()
    for _ in range(20):
        promise.make(0, 5000, step_ms=1000)
        promise.keep(500, step_ms=100)
    assert promise.corrected_ms(500, 0, step_ms=100) == 500
