"""Which leaf goes first among those of several tenants."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic

from kvflow_agents.eviction import EvictionQueue, Leaf, Preference, Rank
from kvflow_agents.tenants import Tenant


class TenantQueue(set[Leaf], Generic[Leaf]):
    """Evictable leaves: recency says whose turn it is to give room, each tenant's order what goes.

    So what a tenant says of its KV moves only its own, as in LRU-SP (Cao, Felten and Li, OSDI '94).
    If it keeps the leaf whose turn it is, others of its leaves go instead. The rule is that of the
    inherited place: a retained leaf inherits the victim's place in the order of recency once
    enough of its owner's tokens were evicted, as many as it holds. With one tenant this is an
    `EvictionQueue`; with several each operation costs O(log n), amortized, however many they are.
    """

    def __init__(
        self,
        rank_of: Callable[[Leaf], Rank],
        tenant_of: Callable[[Leaf], Tenant],
        tokens_of: Callable[[Leaf], int],
        *,
        on_discard: Callable[[Leaf, Rank], None] = lambda leaf, rank: None,
    ) -> None:
        """`on_discard` is called with a leaf and the rank it had, as far as it was noted."""
        super().__init__()
        self._rank_of = rank_of
        self._tenant_of = tenant_of
        self._tokens_of = tokens_of
        self._on_discard = on_discard
        self._queues: dict[Tenant, EvictionQueue[Leaf]] = {}
        self._tenants: dict[Leaf, Tenant] = {}
        # Begun with the second tenant. Entries that are too early are corrected when they come up.
        self._by_recency: list[tuple[float, int, Leaf]] | None = None
        self._places: dict[Leaf, float] = {}  # of leaves that others went for
        self._paid_tokens: dict[Leaf, int] = {}

    def add(self, leaf: Leaf) -> None:
        """Make a leaf evictable."""
        if leaf in self:
            return
        super().add(leaf)
        tenant = self._tenants[leaf] = self._tenant_of(leaf)
        queue = self._queues.get(tenant)
        if queue is None:
            queue = EvictionQueue(self._rank_of, on_discard=self._on_discard)
            self._queues[tenant] = queue
        queue.add(leaf)
        if self._by_recency is not None:
            self._push(leaf)
        elif len(self._queues) > 1:
            self._rebuild()

    def discard(self, leaf: Leaf) -> None:  # type: ignore[override]
        """Make a leaf unevictable, if it was evictable."""
        if leaf not in self:
            return
        super().discard(leaf)
        tenant = self._tenants.pop(leaf)
        self._queues[tenant].discard(leaf)
        if not self._queues[tenant]:
            del self._queues[tenant]
        self._places.pop(leaf, None)
        self._paid_tokens.pop(leaf, None)

    def refresh(self, leaf: Leaf) -> None:
        """Take note that a leaf's rank may have changed."""
        if leaf in self:
            self._queues[self._tenants[leaf]].refresh(leaf)

    def first(self, preference_of: Callable[[Tenant], Preference]) -> Leaf | None:
        """The leaf to evict first, None if there is none; it stays in the set."""
        tenant = self._whose_turn()
        return self.first_of(tenant, preference_of(tenant))

    def first_of(self, tenant: Tenant, preference: Preference) -> Leaf | None:
        """The leaf that a tenant gives up first."""
        queue = self._queues.get(tenant)
        return None if queue is None else queue.first(preference)

    def gives(self, victim: Leaf) -> None:
        """A leaf is about to be evicted: its tenant has given so much for the leaf it keeps."""
        oldest = self._oldest()
        if oldest is None or oldest is victim:
            return
        if self._tenants[oldest] != self._tenants.get(victim):
            return
        paid = self._paid_tokens.get(oldest, 0) + self._tokens_of(victim)
        if paid >= self._tokens_of(oldest):
            self._places[oldest] = max(self._place_of(oldest), self._place_of(victim))
            paid = 0
        self._paid_tokens[oldest] = paid

    def _whose_turn(self) -> Tenant:
        if len(self._queues) == 1:
            return next(iter(self._queues))
        oldest = self._oldest()
        return None if oldest is None else self._tenants[oldest]

    def _place_of(self, leaf: Leaf) -> float:
        return max(self._rank_of(leaf).last_access, self._places.get(leaf, 0.0))

    def _oldest(self) -> Leaf | None:
        """The leaf whose turn it is; None while there is one tenant, or no leaf."""
        heap = self._by_recency
        while heap:
            place, tie, leaf = heap[0]
            now = self._place_of(leaf) if leaf in self else None
            if now == place:
                return leaf
            if now is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (now, tie, leaf))
        return None

    def _push(self, leaf: Leaf) -> None:
        assert self._by_recency is not None
        heapq.heappush(self._by_recency, (self._place_of(leaf), self._rank_of(leaf).tie, leaf))
        # Leaves that are gone, or came twice, go when they come up; mostly such: begin anew.
        if len(self._by_recency) > 2 * len(self) + 64:
            self._rebuild()

    def _rebuild(self) -> None:
        self._by_recency = [(self._place_of(each), self._rank_of(each).tie, each) for each in self]
        heapq.heapify(self._by_recency)
