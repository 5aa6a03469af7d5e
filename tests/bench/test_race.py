from __future__ import annotations

from kvflow_bench.client import Answer
from kvflow_bench.race import Difference, Verdict, differences, early_tokens


def answers(*outputs: list[int]) -> list[Answer]:
    return [Answer(1.0, 1.0, 1, 0, 0, output) for output in outputs]


def test_the_first_token_that_differs_is_found() -> None:
    seen = answers([1, 2, 3], [1, 2, 3], [1, 2], [9])
    expected = answers([1, 2, 3], [1, 5, 3], [1, 2, 3], [1])
    assert differences(seen, expected) == [Difference(1, 1), Difference(2, 2), Difference(3, 0)]


def test_loads_for_waiting_requests_are_early_too() -> None:
    counted = {"kvflow/prefetched_tokens": 5.0, "kvflow/early_load_tokens": 2.0, "other": 1.0}
    assert early_tokens(counted) == 7


def test_a_race_in_which_nothing_was_loaded_ahead_proves_nothing() -> None:
    assert Verdict(10, early_tokens=5, differences=[], own_differences=None).is_passed
    assert not Verdict(10, early_tokens=0, differences=[], own_differences=None).is_passed
    assert not Verdict(10, 5, differences=[Difference(1, 0)], own_differences=None).is_passed
