"""The device's slots for LoRA adapters: which to give up, which adapter to load ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from kvflow_agents.adapters import Adapter

StepsOf = Callable[[Adapter], int | None]
LastUsed = Callable[[Adapter], int]


class AdapterRank(NamedTuple):
    """Where an adapter stands in the order of eviction: smaller goes first.

    Those that nobody expects first, least recently used first; then the furthest from use, as
    ScaleSim evicts by invocation distance, and among equals the least recently used.
    """

    is_expected: bool
    nearness: int
    last_used: int
    tie: str


def rank(adapter: Adapter, steps: int | None, last_used: int) -> AdapterRank:
    """The rank of an adapter that will be used in `steps` steps."""
    nearness = 0 if steps is None else -steps
    return AdapterRank(steps is not None, nearness, last_used, adapter or "")


def first_out(candidates: Iterable[Adapter], steps_of: StepsOf, last_used: LastUsed) -> Adapter:
    """The adapter to evict first; ValueError if there is no candidate."""
    return min(candidates, key=lambda each: rank(each, steps_of(each), last_used(each)))


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots at one moment, by what is in them."""

    count: int
    resident: frozenset[Adapter]
    """Those that are being loaded included."""
    loading: frozenset[Adapter] = frozenset()
    needed: frozenset[Adapter] = frozenset()
    """By requests that run or wait, resident or not."""
    pinned: frozenset[Adapter] = frozenset()

    @property
    def evictable(self) -> frozenset[Adapter]:
        """What may be evicted: nothing in use, waited for, being loaded or pinned."""
        return self.resident - self.needed - self.loading - self.pinned


@dataclass(frozen=True, slots=True)
class AdapterLoad:
    """An adapter to load before it is asked for, because it is used in `steps` steps."""

    adapter: Adapter
    steps: int


def next_in(
    wanted: Iterable[Adapter],
    slots: Slots,
    *,
    horizon_steps: int,
    steps_of: StepsOf,
    last_used: LastUsed,
) -> AdapterLoad | None:
    """The next adapter to load ahead, of those `wanted`, soonest first; None if none should be.

    One at a time, never before a load that a request waits for, and never in the place of an
    adapter that is used as soon.
    """
    if slots.loading or slots.needed - slots.resident:
        return None
    for adapter in wanted:
        steps = steps_of(adapter)
        if steps is None or steps > horizon_steps:
            return None
        if adapter not in slots.resident:
            has_room = len(slots.resident) < slots.count
            if has_room or _may_displace(steps, slots.evictable, steps_of, last_used):
                return AdapterLoad(adapter, steps)
            return None
    return None


def _may_displace(
    steps: int, evictable: frozenset[Adapter], steps_of: StepsOf, last_used: LastUsed
) -> bool:
    """Whether the first to be evicted is used later than in `steps` steps, or by nobody."""
    if not evictable:
        return False
    victim_steps = steps_of(first_out(evictable, steps_of, last_used))
    return victim_steps is None or victim_steps > steps
