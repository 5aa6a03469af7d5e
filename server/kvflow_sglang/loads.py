"""Copies from the host tier to the device that no batch has asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from kvflow_agents.claims import Holder
from kvflow_sglang.compat import copies, radix_cache
from kvflow_sglang.tree import Node


@dataclass(frozen=True, slots=True)
class Part:
    """One prefix of a copy: to these slots go the last tokens of the path to `anchor_id`.

    `holder`: the agent whose call it is ahead of; None if a request waits for it already.
    """

    anchor_id: int
    host_indices: Any
    slots: Any
    lock: Any
    host_lock: Any
    holder: Holder | None


@dataclass(frozen=True, slots=True)
class Flight:
    """One copy under way."""

    parts: tuple[Part, ...]
    copy: copies.Copy

    @property
    def is_ahead(self) -> bool:
        """Whether no request had asked for any of it."""
        return all(part.holder is not None for part in self.parts)

    @property
    def finish_event(self) -> Any:
        """Set when the copy is done; the name that SGLang's acks have."""
        return self.copy.finish_event


class EarlyLoads:
    """Loads prefixes ahead of the batches that will read them.

    SGLang shows loaded KV in its tree when the copy is queued: the batch that asked for it waits,
    layer by layer. Nobody waits for an early load, so its slots enter the tree only when the copy
    is done; until then nothing can match, insert over or read them. The copies have a stream of
    their own and never stand before one that a batch waits for. Whether a copy is done is agreed
    between ranks, as SGLang does for its own.
    """

    # Without it KV is shown before it is there: for the tests that must see that go wrong.
    _is_fenced = True

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._engine = copies.make_transfer_engine(cache.cache_controller)
        self._reserved: list[Part] = []
        self._flights: list[Flight] = []

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def tokens(self) -> int:
        """How many slots are reserved or being written."""
        return sum(len(part.slots) for part in self._parts())

    def reserve(self, anchor: Node, holder: Holder | None = None) -> int:
        """Reserve slots for all that the device lacks down to `anchor`; how many, 0 if too few.

        `holder`: whose call it is ahead of.
        """
        cache = self._cache
        host_lock = cache.inc_host_lock_ref(anchor.id).to_dec_params()
        # Its ancestors on the device must still be there when it lands.
        lock = cache.lock(anchor.id)
        host_indices = torch.cat(
            [radix_cache.host_value(node) for node in _host_only(anchor)][::-1]
        )
        slots = self._allocate(len(host_indices))
        if slots is None:
            cache.unlock(lock)
            cache.dec_host_lock_ref(anchor.id, host_lock)
            return 0
        self._reserved.append(Part(anchor.id, host_indices, slots, lock, host_lock, holder))
        return len(slots)

    def start(self) -> None:
        """Copy what was reserved, all at once: each copy costs the CPU a launch for every layer."""
        if self._reserved:
            copy = copies.copy_to_device(
                self._cache.cache_controller,
                self._engine,
                torch.cat([part.host_indices for part in self._reserved]),
                torch.cat([part.slots for part in self._reserved]),
            )
            self._flights.append(Flight(tuple(self._reserved), copy))
            self._reserved.clear()

    def finish(self, *, waits: bool = False) -> list[tuple[Node, Holder | None]]:
        """Let the copies that are done into the tree; the nodes that have come to the device.

        With `waits`, block until every copy is done.
        """
        if not self._flights:
            return []
        done = len(self._flights)
        if waits:
            for flight in self._flights:
                flight.finish_event.synchronize()
        elif self._is_fenced:
            done = copies.agree_on_finished(self._cache, self._flights)
        landing, self._flights = self._flights[:done], self._flights[done:]
        for flight in landing:
            copies.count_load(self._cache, flight.copy)
        parts = (part for flight in landing for part in flight.parts)
        return [(node, part.holder) for part in parts for node in self._land(part)]

    def is_bringing(self, node: Node) -> bool:
        """Whether the first part of what the device lacks down to `node` is on its way."""
        return self._bringing(node, self._parts())

    def tokens_to(self, node: Node) -> int:
        """How much of what the device lacks down to `node` is on its way."""
        return max((len(part.slots) for part in self._bringing_parts(node)), default=0)

    def flight_to(self, node: Node) -> Flight | None:
        """The copy that brings the first part of what the device lacks down to `node`."""
        return next((each for each in self._flights if self._bringing(node, each.parts)), None)

    def _bringing(self, node: Node, parts: Iterable[Part]) -> bool:
        first = _first_host_only(node)
        nodes = (self._cache.tree_core.node_by_id(part.anchor_id) for part in parts)
        return first is not None and any(_first_host_only(anchor) is first for anchor in nodes)

    def _bringing_parts(self, node: Node) -> Iterator[Part]:
        return (part for part in self._parts() if self._bringing(node, [part]))

    def _parts(self) -> Iterator[Part]:
        for flight in self._flights:
            yield from flight.parts
        yield from self._reserved

    def abandon(self) -> None:
        """Wait for all copies and forget them: the tree and the slots are about to be reset."""
        for flight in self._flights:
            flight.finish_event.synchronize()
        self._flights.clear()

    def _allocate(self, tokens: int) -> Any:
        cache = self._cache
        shortfall = tokens - cache.token_to_kv_pool_allocator.available_size()
        if shortfall > 0:
            cache.evict_for_alloc(radix_cache.EvictParams(num_tokens=shortfall))
        return cache.token_to_kv_pool_allocator.alloc(tokens)

    def _land(self, part: Part) -> list[Node]:
        """Give each node still without KV its slots; nodes may have been cut since the start."""
        cache = self._cache
        landed: list[Node] = []
        pieces, spare = [], []
        node, end = cache.tree_core.node_by_id(part.anchor_id), len(part.slots)
        while end > 0:
            start = end - len(node.key)
            if node.evicted:
                landed.append(node)
                pieces.append(part.slots[start:end])
            else:
                # A request has computed or loaded the same tokens in the meantime.
                spare.append(part.slots[start:end])
            node, end = node.parent, start
        if landed:
            radix_cache.commit_load(cache, part.anchor_id, landed[::-1], torch.cat(pieces[::-1]))
        if spare:
            cache.token_to_kv_pool_allocator.free(torch.cat(spare))
        cache.unlock(part.lock)
        cache.dec_host_lock_ref(part.anchor_id, part.host_lock)
        return landed


def _host_only(node: Node) -> Iterator[Node]:
    """The node and those above it that the device lacks, lowest first."""
    while node.evicted:
        yield node
        node = node.parent


def _first_host_only(node: Node) -> Node | None:
    *_, first = None, *_host_only(node)
    return first
