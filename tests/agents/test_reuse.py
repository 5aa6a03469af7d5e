"""The clock of the messages, and what KV of which nothing is known is worth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvflow_agents.eviction import Rank, Standing, rank
from kvflow_agents.reuse import MOST_MARKS, MessageClock, Order, Reuse, ReuseByAge


class Cache:
    """A cache's count of accesses, and its clock."""

    def __init__(self, order: Order = "time") -> None:
        self.accesses = 0
        self.reuse = Reuse(MessageClock(lambda: self.accesses), order=order)

    def use(self, at_ms: int) -> float:
        """A message, and an access right after it."""
        self.reuse.clock.tell(at_ms)
        self.accesses += 1
        return self.accesses


def ordinary(last_access: float) -> Rank:
    return rank(Standing.ORDINARY, None, last_access, 0)


def expected(due_ms: int) -> Rank:
    return rank(Standing.EXPECTED, due_ms, 0, 0)


def test_ages_are_those_of_the_messages_around_an_access() -> None:
    cache = Cache()
    first, second = cache.use(1000), cache.use(5000)
    cache.use(9000)
    assert [cache.reuse.clock.age_ms(each) for each in (first, second)] == [8000, 4000]


def test_a_clock_that_goes_back_stands_still() -> None:
    cache = Cache()
    cache.use(5000)
    cache.use(1000)
    cache.reuse.clock.tell(None)
    assert cache.reuse.clock.now_ms == 5000


def test_what_is_older_than_all_marks_is_as_old_as_the_oldest() -> None:
    cache = Cache()
    first = cache.use(1)
    for at_ms in range(2, 2 * MOST_MARKS):
        cache.use(at_ms)
    assert MOST_MARKS / 2 <= cache.reuse.clock.age_ms(first) < 2 * MOST_MARKS


def test_by_default_ordinary_kv_is_used_after_as_long_again() -> None:
    cache = Cache()
    used = cache.use(1000)
    cache.use(11_000)
    assert cache.reuse.expected_goes(ordinary(used), expected(11_000 + 10_001))
    assert not cache.reuse.expected_goes(ordinary(used), expected(11_000 + 9_999))


def test_kv_of_an_age_at_which_nothing_was_ever_used_gives_way() -> None:
    cache = Cache()
    used = cache.use(1000)
    cache.use(11_000)
    for _ in range(20):
        cache.reuse.note(ordinary(used), used, was_used=False)
    assert not cache.reuse.expected_goes(ordinary(used), expected(11_000 + 20_000))


def test_kv_of_an_age_that_is_often_used_stays() -> None:
    cache = Cache()
    used = cache.use(1000)
    cache.use(11_000)
    for _ in range(20):
        cache.reuse.note(ordinary(used), used, was_used=True)
    assert cache.reuse.expected_goes(ordinary(used), expected(11_000 + 5_000))


def test_only_ordinary_kv_teaches() -> None:
    cache = Cache()
    used = cache.use(1000)
    cache.use(11_000)
    for _ in range(20):
        cache.reuse.note(rank(Standing.SPENT, None, used, 0), used, was_used=False)
    assert cache.reuse.expected_goes(ordinary(used), expected(11_000 + 10_001))


def test_without_a_clock_nothing_teaches() -> None:
    cache = Cache()
    for _ in range(20):
        cache.reuse.note(ordinary(0), 0, was_used=True)
    used = cache.use(1000)
    assert not cache.reuse.expected_goes(ordinary(used), expected(1001))


def test_the_rate_of_an_age_is_uses_over_the_time_spent_at_it() -> None:
    by_age = ReuseByAge()
    for age_ms, was_used in ((300, True), (1000, False), (90, True), (256, False)):
        by_age.note(0, age_ms, was_used=was_used)
    # From 256 to 511 ms: 44 of the first, all 256 of the second, none of the last.
    assert by_age.wait_ms(400) == (44 + 256 + 400) / (1 + 1)


def test_kv_that_becomes_a_leaf_has_rested_from_then_on() -> None:
    by_age = ReuseByAge()
    by_age.note(300, 500, was_used=True)
    by_age.note(500, 500, was_used=False)
    assert by_age.wait_ms(400) == (200 + 400) / (1 + 1)


def test_what_an_eviction_leaves_of_a_conversation_has_not_rested_twice() -> None:
    cache = Cache()
    used = cache.use(1000)
    evicted = cache.use(11_000)
    cache.reuse.note(ordinary(used), used, was_used=False)
    waits = [
        cache.reuse.expected_goes(ordinary(used), expected(11_000 + ms)) for ms in (6000, 7000)
    ]
    for _ in range(20):
        cache.reuse.note(ordinary(used), evicted, was_used=False)
    assert waits == [
        cache.reuse.expected_goes(ordinary(used), expected(11_000 + ms)) for ms in (6000, 7000)
    ]


def test_what_is_overdue_stays() -> None:
    cache = Cache()
    used = cache.use(1000)
    cache.use(11_000)
    assert not cache.reuse.expected_goes(ordinary(used), expected(2_000))


@pytest.mark.parametrize("order", ["time", "steps"])
def test_without_a_clock_and_by_steps_what_is_expected_stays(order: Order) -> None:
    cache = Cache(order)
    if order == "steps":
        cache.use(1000)
    assert not cache.reuse.expected_goes(ordinary(0), expected(10**9))


@given(
    st.lists(st.tuples(st.floats(0, 1e12), st.booleans()), max_size=200),
    st.floats(0, 1e12),
)
def test_a_wait_is_always_a_positive_time(seen: list[tuple[float, bool]], age_ms: float) -> None:
    by_age = ReuseByAge()
    for each, was_used in seen:
        by_age.note(0, each, was_used=was_used)
    assert 0 < by_age.wait_ms(age_ms) < float("inf")


def test_old_evidence_fades() -> None:
    by_age = ReuseByAge()
    for was_used, times in ((False, 10_000), (True, 10_000)):
        for _ in range(times):
            by_age.note(0, 1000, was_used=was_used)
    assert by_age.wait_ms(1000) < 1000
