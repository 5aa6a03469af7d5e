"""Prefetch in the scheduler's loop: one load at a time, when nobody waits for another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from kvflow_agents.arrivals import Arrivals
from kvflow_agents.claims import Holder
from kvflow_agents.prefetch import FEWEST_TOKENS, MOST_WAITS, Load, PrefetchQueue
from kvflow_agents.tenants import Tenant
from kvflow_sglang.loads import EarlyLoads, Flight
from kvflow_sglang.settings import Settings
from kvflow_sglang.tree import Node

# How many loads for waiting requests are under way at once.
MOST_FLIGHTS = 4
# Beyond so many nodes loaded and not read, those that are gone are looked for.
MOST_UNUSED = 4096

_COUNTS = (
    "prefetched_tokens",
    "prefetch_used_tokens",
    "prefetch_late_tokens",
    "prefetch_wasted_tokens",
    "early_load_tokens",
    "waits_for_loads",
)


@dataclass(slots=True)
class _Wait:
    flight: Flight
    loads: int = 0
    late_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Unread:
    tokens: int
    holder: Holder | None


class Prefetcher:
    """Starts and finishes early loads, and says which requests had better wait for one.

    Everything follows from requests, messages with their times, and copies that all ranks agree
    are done: no clock of its own. At most one copy is ahead of its requests.
    """

    def __init__(self, cache: Any, queue: PrefetchQueue[Node] | None, settings: Settings) -> None:
        self._cache = cache
        cache.tree_core.on_lost = self._lost
        cache.tree_core.on_split = self._split
        self._queue = queue
        self._starts_for_waiting = settings.waits_for_loads
        self._tenant_tokens = settings.tenant_prefetch_tokens
        self._common_tokens = settings.common_prefetch_tokens
        self._loads = EarlyLoads(cache)
        self._is_settled = False
        self._is_starting = False
        self.arrivals = Arrivals()
        self._waits: WeakKeyDictionary[Any, _Wait] = WeakKeyDictionary()
        self._unused: dict[int, _Unread] = {}  # by node: loaded ahead, and not read yet
        self._counts: Counter[str] = Counter()

    @property
    def tokens_under_way(self) -> int:
        """Slots that are neither free nor in the tree."""
        return self._loads.tokens

    def tokens_to(self, node: Node) -> int:
        """How much of what the device lacks down to `node` is on its way."""
        return self._loads.tokens_to(node)

    def wake(self) -> None:
        """A forecast, a prefix or the room on the device has changed."""
        self._is_settled = False

    def step(self) -> None:
        """Once a scheduler pass, before requests are admitted."""
        if len(self._loads):
            self._note_landed(self._loads.finish())
        # Never beside a load that a request waits for.
        arrivals_go_first = self.arrivals.go_first()
        if self._is_settled or self._queue is None or arrivals_go_first:
            return
        if len(self._loads) or self._cache.ongoing_load_back or self._lets_adapter_go_first():
            return
        unread = self._unread_tokens()
        with self._starting():
            tokens = self._queue.fill(
                self._cache.tree_core.missing,
                self._make_room,
                self._reserve,
                lambda tenant: self._most_unread_tokens(tenant) - unread[tenant],
                now_ms=self._cache.now_ms,
            )
            self._loads.start()
        self._is_settled = not tokens

    def should_wait(self, request: Any, *, others_can_run: bool) -> bool:
        """Whether a request whose prefix is not on the device should let others pass.

        While its prefix is being loaded it waits. If others keep the device busy, its load is
        started now and it waits too: in a batch it would hold them all up.
        """
        node = self._cache.tree_core.node_or_none(request.best_match_node)
        if node is None or not node.evicted:
            return False
        wait = self._waits.get(request)
        flight = self._loads.flight_to(node)
        is_under_way = flight is not None
        if wait is not None and wait.flight is not flight and wait.loads >= MOST_WAITS:
            return False
        if flight is None and others_can_run:
            flight = self._start_for_waiting(request, node)
        if flight is None:
            return False
        if wait is None or wait.flight is not flight:
            wait = self._waits.setdefault(request, _Wait(flight))
            wait.flight = flight
            wait.loads += 1
            self._counts["waits_for_loads"] += 1
            if is_under_way:
                self._note_late(wait, min(self._loads.tokens_to(node), request.host_hit_length))
        return True

    def has_waited(self, request: Any) -> bool:
        """Whether a request was held back for a load."""
        return request in self._waits

    def late_tokens(self, request: Any) -> int:
        """How much was loaded ahead of a request, but still on its way when it could have run."""
        wait = self._waits.get(request)
        return 0 if wait is None else wait.late_tokens

    def read(self, request: Any, leaf: Node) -> int:
        """A request has read all KV down to `leaf`; how much of it was loaded ahead and unread."""
        node, tokens = leaf, 0
        while self._unused and node.parent is not None:
            unread = self._unused.pop(node.id, None)
            tokens += 0 if unread is None else unread.tokens
            node = node.parent
        self._counts["prefetch_used_tokens"] += tokens
        if tokens and self._queue is not None and request not in self._waits:
            self._queue.note_in_time()
        return tokens

    def evicted(self, node: Node) -> None:
        """A node is about to leave the device."""
        self._waste(node.id)

    def land_all(self) -> bool:
        """Wait for the copies under way, for somebody needs their room; whether there were any.

        Not for the sake of another early load, which had better not be.
        """
        if not len(self._loads) or self._is_starting:
            return False
        self._note_landed(self._loads.finish(waits=True))
        return True

    def abandon(self) -> None:
        """Wait for the copies under way and forget them: the tree is about to be emptied."""
        self._loads.abandon()

    @property
    def counts(self) -> dict[str, int]:
        """Tokens loaded ahead of their request, and what became of them."""
        return {name: self._counts[name] for name in _COUNTS}

    def status(self) -> dict[str, int]:
        """The counts, and what is under way."""
        self._note_wasted()
        return self.counts | {"load_tokens_under_way": self._loads.tokens}

    def _lets_adapter_go_first(self) -> bool:
        """One copy ahead at a time on the link: without its adapter a request cannot run at all."""
        lora = self._cache.lora
        return lora is not None and lora.needs_link

    @contextmanager
    def _starting(self) -> Iterator[None]:
        self._is_starting = True
        try:
            yield
        finally:
            self._is_starting = False

    def _make_room(self, load: Load[Node]) -> int | None:
        if self._loads.is_bringing(load.claim.node):
            return None
        room: int = self._cache.make_room(load.tokens, load.beyond, load.claim.tenant)
        return room

    def _reserve(self, load: Load[Node]) -> int:
        tree = self._cache.tree_core
        if tree.node_ending_at(load.claim, load.stop) is None:
            key: Any = load.claim.key
            self._cache.touch_prefix(key[: load.stop])  # cuts the node there
        anchor = tree.node_ending_at(load.claim, load.stop)
        if anchor is None or not self._loads.reserve(anchor, load.claim.holder):
            return 0
        self._counts["prefetched_tokens"] += load.tokens
        return load.tokens

    def _most_unread_tokens(self, tenant: Tenant) -> int:
        if tenant is None and self._common_tokens is not None:
            return self._common_tokens
        return self._tenant_tokens

    def _unread_tokens(self) -> Counter[Tenant]:
        """What was loaded ahead for each tenant and not read yet, as far as that is bounded: one
        alone may have all, unless it was said how much."""
        unread: Counter[Tenant] = Counter()
        tree = self._cache.tree_core
        if len(self._cache.tenants) > 1 or self._common_tokens is not None:
            for node_id, each in self._unused.items():
                unread[tree.tenant_of_id(node_id)] += each.tokens
        return unread

    def _start_for_waiting(self, request: Any, node: Node) -> Flight | None:
        if not self._starts_for_waiting or len(self._loads) >= MOST_FLIGHTS:
            return None
        if request.host_hit_length < FEWEST_TOKENS:
            return None
        with self._starting():
            if not self._loads.reserve(node):
                return None
            self._loads.start()
        self._counts["early_load_tokens"] += request.host_hit_length
        return self._loads.flight_to(node)

    def _note_late(self, wait: _Wait, tokens: int) -> None:
        if wait.flight.is_ahead:
            wait.late_tokens += tokens
            self._counts["prefetch_late_tokens"] += tokens
        if self._queue is not None:
            self._queue.note_late()

    def _note_landed(self, landed: list[tuple[Node, Holder | None]]) -> None:
        if self._queue is not None and not len(self._loads):
            self._queue.note_landed(self._cache.now_ms)
        for node, holder in landed:
            self._waste(node.id)
            self._unused[node.id] = _Unread(len(node.key), holder)
            self.wake()
        if len(self._unused) > MOST_UNUSED:
            self._note_wasted()

    def _note_wasted(self) -> None:
        """Count what has left the device without being read."""
        for node_id in list(self._unused):
            node = self._cache.tree_core.node_or_none(node_id)
            if node is None or node.evicted:
                self._waste(node_id)

    def _lost(self, distance: int | None) -> None:
        """Something has left the device that is needed at such a distance."""
        if self._queue is not None and self._queue.note_lost(distance):
            self.wake()

    def _split(self, upper: Node, lower: Node) -> None:
        unread = self._unused.get(lower.id)
        if unread is not None:
            for node in (upper, lower):
                self._unused[node.id] = _Unread(len(node.key), unread.holder)

    def _waste(self, node_id: int) -> None:
        unread = self._unused.pop(node_id, None)
        if unread is not None:
            self._counts["prefetch_wasted_tokens"] += unread.tokens
            if unread.holder is not None:
                self._cache.tenants.note_wasted(unread.holder, unread.tokens)
