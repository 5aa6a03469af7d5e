"""The order of eviction, and a set of leaves that keeps it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from enum import IntEnum
from typing import Generic, NamedTuple, TypeVar

Leaf = TypeVar("Leaf")

# A leaf that goes in parts goes in large ones: each costs a cut of the node and of its claims.
MOST_PARTS = 8
FEWEST_PART_TOKENS = 16


class Standing(IntEnum):
    """Why a piece of KV is kept, weakest reason first."""

    SPENT = 0
    """Only one workflow has used it, and none of its agents will: suffixes, finished workflows."""
    ORDINARY = 1
    """Nothing is known of its next use: unhinted traffic, agents that nobody expects."""
    EXPECTED = 2
    """An agent with known steps-to-execution will use it."""


class Rank(NamedTuple):
    """Where a leaf stands in the order of eviction: smaller goes first.

    Weakest standing first; among the expected the furthest from execution first, as in KVFlow,
    section 3.1; then the least recently used. `tie` makes the order total and equal on all ranks.
    """

    standing: Standing
    nearness: int
    last_access: float
    tie: int

    @property
    def distance(self) -> int:
        """How far an expected leaf's nearest agent is from its call, in steps or on a clock."""
        return -self.nearness


def rank(standing: Standing, distance: int | None, last_access: float, tie: int) -> Rank:
    """The rank of a leaf whose nearest agent is so far from its call."""
    return Rank(standing, 0 if distance is None else -distance, last_access, tie)


def part_to_evict(
    standing: Standing, leaf_tokens: int, wanted_tokens: int, page_size: int = 1
) -> int:
    """How many tokens of a leaf go, from its end, where so many are wanted.

    Of what an agent is expected to use no more than has to, as MIN does it token by token: the rest
    is a shorter prefix of the same agent. What nobody is known to use goes whole, as under LRU.
    """
    if standing is not Standing.EXPECTED:
        return leaf_tokens
    part_tokens = max(wanted_tokens, leaf_tokens // MOST_PARTS, FEWEST_PART_TOKENS)
    pages = -(-part_tokens // page_size)
    return min(pages * page_size, leaf_tokens)


Preference = Callable[[Rank, Rank], bool]
"""Of the first ordinary leaf and the first expected one: whether the expected one goes."""


def by_standing(ordinary: Rank, expected: Rank) -> bool:
    """Whatever is expected stays."""
    return False


def by_recency(ordinary: Rank, expected: Rank) -> bool:
    """The one that was used less recently goes."""
    return expected.last_access < ordinary.last_access


def beyond_share(expected_goes: Preference) -> Preference:
    """Of KV that is expected beyond its share of a tier also what was used less recently goes."""
    return lambda ordinary, expected: (
        by_recency(ordinary, expected) or expected_goes(ordinary, expected)
    )


def may_displace(victim: Rank, beyond: int, expected_goes: Preference) -> bool:
    """Whether a victim may give way to KV that is loaded before it is asked for.

    Only what is needed beyond a distance: else it would take its place back, and so on.
    """
    if victim.standing is Standing.EXPECTED:
        return victim.distance > beyond
    expected = rank(Standing.EXPECTED, beyond, math.inf, 0)
    return victim.standing is Standing.SPENT or not expected_goes(victim, expected)


class EvictionQueue(set[Leaf], Generic[Leaf]):
    """A set of evictable leaves that knows which goes first.

    It keeps one heap per standing over the whole life of the cache, where a heap built at every
    eviction would cost O(leaves) each time. Entries are corrected when they come up, so two changes
    need no notice: an access makes a leaf go *later*, and a ledger's `doubt` or `believe` moves all
    leaves of a workflow at once, of which those that are weaker now may be found last. For any
    other change call `refresh`.
    `add`, `discard` and `refresh` cost O(log n); `first` does too, amortized.
    """

    def __init__(
        self,
        rank_of: Callable[[Leaf], Rank],
        *,
        on_discard: Callable[[Leaf, Rank], None] = lambda leaf, rank: None,
    ) -> None:
        """`on_discard` is called with a leaf and the rank it had, as far as it was noted."""
        super().__init__()
        self._rank_of = rank_of
        self._on_discard = on_discard
        self._ranks: dict[Leaf, Rank] = {}
        self._heaps: dict[Standing, list[tuple[Rank, Leaf]]] = {each: [] for each in Standing}

    def add(self, leaf: Leaf) -> None:
        """Make a leaf evictable."""
        if leaf not in self:
            super().add(leaf)
            self._push(leaf, self._rank_of(leaf))

    def discard(self, leaf: Leaf) -> None:  # type: ignore[override]
        """Make a leaf unevictable, if it was evictable."""
        noted = self._ranks.pop(leaf, None)
        if noted is not None:
            super().discard(leaf)
            self._on_discard(leaf, noted)

    def refresh(self, leaf: Leaf) -> None:
        """Take note that a leaf's rank may have changed."""
        if leaf in self:
            now = self._rank_of(leaf)
            noted = self._ranks[leaf]
            # One that goes later in the same heap is corrected when it comes up.
            if now < noted or now.standing is not noted.standing:
                self._push(leaf, now)

    def first(self, expected_goes: Preference = by_standing) -> Leaf | None:
        """The leaf to evict first, None if there is none; it stays in the set.

        Spent leaves go before all others; between the first ordinary and the first expected one
        `expected_goes` decides.
        """
        found = self._first(expected_goes)
        if found is None and self:
            # Every leaf was refiled into a heap already searched; search once more.
            found = self._first(expected_goes)
        return found

    def _first(self, expected_goes: Preference) -> Leaf | None:
        spent = self._first_of(Standing.SPENT)
        if spent is not None:
            return spent
        ordinary = self._first_of(Standing.ORDINARY)
        expected = self._first_of(Standing.EXPECTED)
        if ordinary is None or expected is None:
            return expected if ordinary is None else ordinary
        goes = expected_goes(self._ranks[ordinary], self._ranks[expected])
        return expected if goes else ordinary

    def _first_of(self, standing: Standing) -> Leaf | None:
        heap = self._heaps[standing]
        while heap:
            noted, leaf = heap[0]
            if self._ranks.get(leaf) != noted:
                heapq.heappop(heap)
                continue
            now = self._rank_of(leaf)
            if now == noted:
                return leaf
            heapq.heappop(heap)
            self._push(leaf, now)
        return None

    def _push(self, leaf: Leaf, now: Rank) -> None:
        self._ranks[leaf] = now
        heap = self._heaps[now.standing]
        heapq.heappush(heap, (now, leaf))
        # Superseded entries go when they come up; a heap of mostly such entries is rebuilt.
        if len(heap) > 2 * len(self._ranks) + 64:
            heap[:] = [entry for entry in heap if self._ranks.get(entry[1]) is entry[0]]
            heapq.heapify(heap)
