"""The order of eviction, exactly; and a queue that never strays from sorting by rank."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvflow_agents.eviction import (
    FEWEST_PART_TOKENS,
    MOST_PARTS,
    EvictionQueue,
    Preference,
    Rank,
    Standing,
    beyond_share,
    by_recency,
    by_standing,
    part_to_evict,
    rank,
)


@dataclass(eq=False)
class Leaf:
    """Like a node of a tree: compared by identity, and not ordered."""

    id: int
    standing: Standing = Standing.ORDINARY
    steps: int | None = None
    last_access: float = 0.0

    def rank(self) -> Rank:
        return rank(self.standing, self.steps, self.last_access, self.id)


def queue_of(*leaves: Leaf) -> EvictionQueue[Leaf]:
    queue = EvictionQueue(Leaf.rank)
    for leaf in leaves:
        queue.add(leaf)
    return queue


def drained(queue: EvictionQueue[Leaf], expected_goes: Preference = by_standing) -> list[int]:
    order = []
    while (leaf := queue.first(expected_goes)) is not None:
        order.append(leaf.id)
        queue.discard(leaf)
    return order


LEAVES = [
    Leaf(1, Standing.EXPECTED, 0, 1),
    Leaf(2, Standing.EXPECTED, 3, 9),
    Leaf(3, Standing.ORDINARY, None, 5),
    Leaf(4, Standing.EXPECTED, 1, 2),
    Leaf(5, Standing.SPENT, None, 8),
    Leaf(6, Standing.ORDINARY, None, 4),
    Leaf(7, Standing.SPENT, None, 7),
    Leaf(8, Standing.EXPECTED, 1, 1),
]


def test_spent_goes_first_then_ordinary_then_the_expected_furthest_from_execution() -> None:
    assert drained(queue_of(*LEAVES)) == [7, 5, 6, 3, 2, 8, 4, 1]


def test_the_order_of_adding_does_not_matter() -> None:
    assert drained(queue_of(*reversed(LEAVES))) == [7, 5, 6, 3, 2, 8, 4, 1]


def test_ties_in_recency_go_by_id() -> None:
    assert drained(queue_of(Leaf(2), Leaf(3), Leaf(1))) == [1, 2, 3]


def test_competing_expected_leaves_go_by_recency_against_ordinary_ones_only() -> None:
    # 2 is the first of the expected, and newer than 6 and 3: they go before it. Then it goes.
    assert drained(queue_of(*LEAVES), by_recency) == [7, 5, 6, 3, 2, 8, 4, 1]
    old = Leaf(2, Standing.EXPECTED, 3, 3)
    # 2 is older than 6 now; 8, the next in steps, is older than 6 too; 4 and 1 follow likewise.
    leaves = [old, *(leaf for leaf in LEAVES if leaf.id != 2)]
    assert drained(queue_of(*leaves), by_recency) == [7, 5, 2, 8, 4, 1, 6, 3]


def test_beyond_its_share_expected_kv_goes_that_is_older_or_needed_later() -> None:
    def needed_later(ordinary: Rank, expected: Rank) -> bool:
        return expected.distance > 2

    # 2 is newer than 6 and 3, and needed late; then 8 is older than 6, and so are 4 and 1.
    assert drained(queue_of(*LEAVES), needed_later) == [7, 5, 2, 6, 3, 8, 4, 1]
    assert drained(queue_of(*LEAVES), beyond_share(needed_later)) == [7, 5, 2, 8, 4, 1, 6, 3]
    assert drained(queue_of(*LEAVES), beyond_share(by_standing)) == drained(
        queue_of(*LEAVES), by_recency
    )


def test_an_expected_leaf_never_competes_with_a_spent_one() -> None:
    spent, expected = Leaf(1, Standing.SPENT, None, 9), Leaf(2, Standing.EXPECTED, 9, 1)
    assert drained(queue_of(spent, expected), by_recency) == [1, 2]


def test_as_old_as_an_ordinary_leaf_is_not_older() -> None:
    ordinary, expected = Leaf(2, last_access=5), Leaf(1, Standing.EXPECTED, 9, 5)
    assert drained(queue_of(ordinary, expected), by_recency) == [2, 1]


@pytest.mark.parametrize("expected_goes", [by_standing, by_recency])
def test_one_standing_alone_is_drained(expected_goes: Preference) -> None:
    for standing in Standing:
        leaf = Leaf(1, standing)
        assert drained(queue_of(leaf), expected_goes) == [1]
    assert queue_of().first(expected_goes) is None


def test_looking_at_the_first_leaf_leaves_it_in_the_set() -> None:
    queue = queue_of(*LEAVES)
    assert queue.first() is queue.first() is LEAVES[6]
    assert len(queue) == len(LEAVES)


class QueueMachine(RuleBasedStateMachine):
    """Any operations in any order, against sorting everything by rank."""

    def __init__(self) -> None:
        super().__init__()
        self.leaves = [Leaf(number) for number in range(12)]
        self.queue: EvictionQueue[Leaf] = EvictionQueue(Leaf.rank)
        self.inside: set[Leaf] = set()
        self.clock = 50.0  # Past all that `change_and_refresh` sets: a use is never an earlier one.

    numbers = st.integers(0, 11)
    standings = st.sampled_from(Standing)
    steps = st.one_of(st.none(), st.integers(0, 3))

    @rule(number=numbers)
    def add(self, number: int) -> None:
        self.queue.add(self.leaves[number])
        self.inside.add(self.leaves[number])

    @rule(number=numbers)
    def discard(self, number: int) -> None:
        self.queue.discard(self.leaves[number])
        self.inside.discard(self.leaves[number])

    @rule(number=numbers)
    def use_without_notice(self, number: int) -> None:
        self.clock += 1
        self.leaves[number].last_access = self.clock

    @rule(number=numbers, standing=standings, steps=steps, last_access=st.integers(0, 50))
    def change_and_refresh(
        self, number: int, standing: Standing, steps: int | None, last_access: float
    ) -> None:
        leaf = self.leaves[number]
        leaf.standing, leaf.last_access = standing, last_access
        leaf.steps = (steps or 0) if standing is Standing.EXPECTED else None
        self.queue.refresh(leaf)

    @precondition(lambda self: self.inside)
    @rule(number=numbers, standing=standings)
    def rise_without_notice(self, number: int, standing: Standing) -> None:
        """Later in the order by standing, not only by recency."""
        leaf = self.leaves[number]
        if standing > leaf.standing:
            leaf.standing = standing
            leaf.steps = 0 if standing is Standing.EXPECTED else None

    @rule()
    def evict(self) -> None:
        leaf = self.queue.first()
        if leaf is not None:
            self.discard(leaf.id)

    @invariant()
    def holds_what_was_added(self) -> None:
        assert set(self.queue) == self.inside

    @invariant()
    def first_is_the_smallest_rank(self) -> None:
        assert self.queue.first() is min(self.inside, key=Leaf.rank, default=None)

    @invariant()
    def first_competing_is_that_of_the_rule(self) -> None:
        assert self.queue.first(by_recency) is self.competing()

    def competing(self) -> Leaf | None:
        firsts = {
            standing: min(
                (leaf for leaf in self.inside if leaf.standing is standing),
                key=Leaf.rank,
                default=None,
            )
            for standing in Standing
        }
        spent, ordinary, expected = (firsts[standing] for standing in Standing)
        if spent or not (ordinary and expected):
            return spent or ordinary or expected
        return expected if expected.last_access < ordinary.last_access else ordinary


QueueMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestQueueMachine = QueueMachine.TestCase


def test_entries_that_no_longer_count_do_not_pile_up() -> None:
    leaves = [Leaf(number, last_access=number) for number in range(10)]
    queue = queue_of(*leaves)
    for turn in range(10_000):
        leaf = leaves[turn % 10]
        leaf.standing = Standing(turn % 3)
        leaf.last_access = turn
        queue.refresh(leaf)
        queue.discard(leaf)
        queue.add(leaf)
    assert all(len(heap) <= 2 * len(leaves) + 64 for heap in queue._heaps.values())
    assert drained(queue) == [leaf.id for leaf in sorted(leaves, key=Leaf.rank)]


def test_leaves_that_all_have_become_weaker_are_still_found() -> None:
    leaves = [Leaf(number, Standing.EXPECTED, steps=1) for number in range(3)]
    queue = queue_of(*leaves)
    for leaf in leaves:  # as when a tenant is believed again: without notice
        leaf.standing, leaf.steps = Standing.SPENT, None
    assert queue.first() is leaves[0]


@pytest.mark.parametrize(
    ("leaf_tokens", "wanted_tokens", "page_size", "part_tokens"),
    [
        (1000, 300, 1, 300),
        (1000, 2000, 1, 1000),
        (1000, 1, 1, 1000 // MOST_PARTS),
        (1000, 0, 1, 1000 // MOST_PARTS),
        (1000, -500, 1, 1000 // MOST_PARTS),
        (40, 1, 1, FEWEST_PART_TOKENS),
        (10, 1, 1, 10),
        (1024, 300, 64, 320),
        (128, 1, 64, 64),
    ],
)
def test_of_what_is_expected_no_more_goes_than_has_to(
    leaf_tokens: int, wanted_tokens: int, page_size: int, part_tokens: int
) -> None:
    found = part_to_evict(Standing.EXPECTED, leaf_tokens, wanted_tokens, page_size)
    assert found == part_tokens


@pytest.mark.parametrize("standing", [Standing.SPENT, Standing.ORDINARY])
def test_what_nobody_is_known_to_use_goes_whole(standing: Standing) -> None:
    assert part_to_evict(standing, 1000, 1) == 1000


@given(
    st.sampled_from(Standing),
    st.integers(1, 100),
    st.integers(-(10**4), 10**4),
    st.integers(1, 128),
)
def test_parts_are_whole_pages_and_enough(
    standing: Standing, pages: int, wanted_tokens: int, page_size: int
) -> None:
    leaf_tokens = pages * page_size
    part_tokens = part_to_evict(standing, leaf_tokens, wanted_tokens, page_size)
    assert 0 < part_tokens <= leaf_tokens and part_tokens % page_size == 0
    assert part_tokens >= min(wanted_tokens, leaf_tokens)
