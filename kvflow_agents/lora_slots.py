"""The device's slots for LoRA adapters: which to give up, which adapter to load ahead."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Set
from dataclasses import dataclass
from typing import NamedTuple

from kvflow_agents.lora_ledger import Adapter
from kvflow_agents.tenants import Tenant

StepsOf = Callable[[Tenant, Adapter], int | None]
"""In how many steps a tenant uses an adapter; None if it is not expected to."""


class AdapterRank(NamedTuple):
    """Where an adapter stands among the expected, or among the others: smaller goes first.

    The furthest from use first, as ScaleSim evicts by invocation distance, and among equals the
    least recently used.
    """

    nearness: int
    last_used: int
    tie: str


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
    """An adapter to load before it is asked for, because a tenant uses it in `steps` steps."""

    adapter: Adapter
    steps: int
    tenant: Tenant = None


class SlotOrder:
    """Which adapter gives up its slot: one that nobody will use, else the furthest from use.

    Expected adapters of a tenant keep less than `expected_share` of the slots; beyond that they
    compete with its others by recency. Among several tenants recency says who gives room, each
    one's forecasts what goes, as for KV (`tenant_queue`). An adapter is whose request used it last.
    """

    def __init__(self, count: int, steps_of: StepsOf, *, expected_share: float) -> None:
        self._most_expected = expected_share * count
        self._steps_of = steps_of
        self._uses = 0
        self._last_used: dict[Adapter, int] = {}
        self._owners: dict[Adapter, Tenant] = {}

    def __contains__(self, adapter: Adapter) -> bool:
        """Whether its use is remembered."""
        return adapter in self._last_used

    def touch(self, adapter: Adapter) -> None:
        """An adapter is used or loaded."""
        self._uses += 1
        self._last_used[adapter] = self._uses

    def belongs(self, adapter: Adapter, tenant: Tenant) -> None:
        """A tenant uses an adapter, or has it loaded ahead."""
        if tenant is None:
            self._owners.pop(adapter, None)
        else:
            self._owners[adapter] = tenant

    def forget(self, adapter: Adapter) -> None:
        """An adapter has left its slot."""
        self._last_used.pop(adapter, None)
        self._owners.pop(adapter, None)

    def steps_of(self, adapter: Adapter) -> int | None:
        """In how many steps an adapter in a slot is used by the tenant whose it is."""
        return self._steps_of(self._owners.get(adapter), adapter)

    def first_out(self, candidates: Set[Adapter], resident: Collection[Adapter]) -> Adapter:
        """The one of `candidates` to evict first; ValueError if there is none."""
        tenant = self._owners.get(self._oldest(candidates))
        theirs = self._owned_by(tenant, candidates)
        expected = {each for each in theirs if self.steps_of(each) is not None}
        others = theirs - expected
        if not expected:
            return self._oldest(others)
        furthest = min(expected, key=self._rank)
        if not others:
            return furthest
        oldest = self._oldest(others)
        is_crowded = self._expected_of(tenant, resident) + 1 > self._most_expected
        goes = is_crowded and self._recency(furthest) < self._recency(oldest)
        return furthest if goes else oldest

    def give_up(self, candidates: Set[Adapter], resident: Collection[Adapter]) -> Adapter:
        """The one to evict now; what its tenant keeps instead takes its place in recency."""
        victim = self.first_out(candidates, resident)
        oldest = self._oldest(candidates)
        if len({self._owners.get(each) for each in candidates}) > 1:
            self._last_used[oldest] = self._last_used.get(victim, 0)
        return victim

    def replaceable(
        self, tenant: Tenant, candidates: Set[Adapter], resident: Collection[Adapter]
    ) -> Set[Adapter]:
        """What an early load for a tenant may replace: where there are several, its own."""
        is_alone = len({self._owners.get(each) for each in resident}) == 1
        return candidates if is_alone else self._owned_by(tenant, candidates)

    def _owned_by(self, tenant: Tenant, adapters: Iterable[Adapter]) -> Set[Adapter]:
        return {each for each in adapters if self._owners.get(each) == tenant}

    def _expected_of(self, tenant: Tenant, resident: Iterable[Adapter]) -> int:
        return sum(self.steps_of(each) is not None for each in self._owned_by(tenant, resident))

    def _oldest(self, adapters: Iterable[Adapter]) -> Adapter:
        return min(adapters, key=self._recency)

    def _recency(self, adapter: Adapter) -> tuple[int, str]:
        return self._last_used.get(adapter, 0), adapter or ""

    def _rank(self, adapter: Adapter) -> AdapterRank:
        return AdapterRank(-(self.steps_of(adapter) or 0), *self._recency(adapter))


def next_in(
    wanted: Iterable[AdapterLoad], slots: Slots, order: SlotOrder, *, horizon_steps: int
) -> AdapterLoad | None:
    """The next adapter to load ahead, of those `wanted`, soonest first; None if none should be.

    One at a time, never before a load that a request waits for, and never in the place of an
    adapter that is used as soon.
    """
    if slots.loading or slots.needed - slots.resident:
        return None
    without_room: set[Tenant] = set()
    for load in wanted:
        if load.steps > horizon_steps:
            return None
        if load.adapter in slots.resident or load.tenant in without_room:
            continue
        if len(slots.resident) < slots.count or _may_displace(load, slots, order):
            return load
        without_room.add(load.tenant)
    return None


def _may_displace(load: AdapterLoad, slots: Slots, order: SlotOrder) -> bool:
    """Whether the first to be evicted is used later than what is loaded, or by nobody."""
    candidates = order.replaceable(load.tenant, slots.evictable, slots.resident)
    if not candidates:
        return False
    victim_steps = order.steps_of(order.first_out(candidates, slots.resident))
    return victim_steps is None or victim_steps > load.steps
