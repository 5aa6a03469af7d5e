"""The device's slots for LoRA adapters: given up by forecast, and filled ahead of requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from heapq import merge
from operator import attrgetter
from typing import Any

from kvflow_agents.arrivals import Arrivals
from kvflow_agents.lora_ledger import FEWEST_LIFETIME_EVICTIONS, Adapter, AdapterLedger
from kvflow_agents.lora_slots import AdapterLoad, SlotOrder, Slots, next_in
from kvflow_agents.tenants import Tenant
from kvflow_agents.workflow_memory import Limits
from kvflow_sglang.compat.lora import AgreedOverlapLoader, EvictionPolicy, lora_manager
from kvflow_sglang.compat.scheduler import adapters_needed
from kvflow_sglang.settings import Settings

_COUNTS = (
    "lora_loads",
    "lora_evictions",
    "lora_prefetches",
    "lora_prefetches_used",
    "lora_prefetches_wasted",
)


class ForecastEviction(EvictionPolicy):
    """SGLang's policy of LoRA slots, by forecast; recency is counted in uses, not in seconds."""

    def __init__(
        self,
        resident: Callable[[], Set[Adapter]],
        order: SlotOrder,
        counts: Counter[str],
        on_evict: Callable[[], None] = lambda: None,
    ) -> None:
        self._resident = resident
        self._order = order
        self._counts = counts
        self._on_evict = on_evict
        self._in_use: Set[Adapter] = frozenset()
        self._ahead: AdapterLoad | None = None
        self._unused: set[Adapter] = set()  # loaded ahead, and not used yet

    def begin(self, adapters: Set[Adapter]) -> None:
        """A batch is about to use these, or one of them is about to be loaded."""
        self._in_use = frozenset(adapters)
        missing = self._in_use - self._resident()
        if self._ahead is not None:
            self._unused |= missing
        self._counts["lora_loads" if self._ahead is None else "lora_prefetches"] += len(missing)

    @contextmanager
    def loading_ahead(self, load: AdapterLoad) -> Iterator[None]:
        """What is loaded meanwhile is not asked for by a request yet."""
        self._ahead = load
        try:
            yield
        finally:
            self._ahead = None
        if load.adapter in self._resident():
            self._order.belongs(load.adapter, load.tenant)

    def mark_used(self, uid: Adapter) -> None:
        """An adapter is used or loaded; what only keeps its slot during another's load is not."""
        is_ahead = self._ahead is not None or uid in self._unused
        if not (is_ahead and uid in self._order):
            self._order.touch(uid)

    def used(self, adapter: Adapter, tenant: Tenant = None) -> None:
        """A tenant's request has run with an adapter."""
        if adapter in self._unused:
            self._unused.discard(adapter)
            self._counts["lora_prefetches_used"] += 1
        self._order.touch(adapter)
        self._order.belongs(adapter, tenant)

    def select_victim(self, candidates: Set[Adapter]) -> Adapter:
        """The one to give up its slot. SGLang spares the base model while it can; we do not."""
        resident = self._resident()
        candidates = candidates | ({None} & resident - self._in_use)
        if self._ahead is not None:
            own = self._order.replaceable(self._ahead.tenant, candidates, resident)
            candidates = own or candidates
        self._counts["lora_evictions"] += 1
        self._on_evict()
        return self._order.give_up(candidates, resident)

    def remove(self, uid: Adapter) -> None:
        """An adapter leaves its slot."""
        self._order.forget(uid)
        if uid in self._unused:
            self._unused.discard(uid)
            self._counts["lora_prefetches_wasted"] += 1


class AdapterSlots:
    """Keeps the adapters that will be used soonest in the slots of one scheduler.

    Everything follows from requests, messages and loads that all ranks agree are done. SGLang's
    slots know adapters by id, a new one each time that they are loaded into host memory; ledgers
    know them by name.
    """

    def __init__(self, scheduler: Any, settings: Settings) -> None:
        self._scheduler = scheduler
        self._manager = lora_manager(scheduler)
        self._pool = self._manager.memory_pool
        self._horizon_steps = settings.lora_prefetch_steps
        self._arrivals = Arrivals()
        self._requests = 0
        self._counts: Counter[str] = Counter()
        slots = self._pool.max_loras_per_batch
        lifetime = int(settings.lifetime_pools * slots)
        self._lifetime_evictions = max(lifetime, FEWEST_LIFETIME_EVICTIONS)
        self._order = SlotOrder(slots, self._steps_of, expected_share=settings.expected_share)
        self._policy = ForecastEviction(
            self._resident, self._order, self._counts, on_evict=self._turn_over
        )
        for adapter in sorted(self._resident(), key=lambda each: each or ""):
            self._policy.mark_used(adapter)
        self._pool.eviction_policy = self._policy
        self._loader: AgreedOverlapLoader | None = None
        self._waits_for_link = False
        if scheduler.enable_lora_overlap_loading:
            self._loader = AgreedOverlapLoader(self._manager, scheduler.tree_cache)
            scheduler.lora_overlap_loader = self._loader

    @property
    def needs_link(self) -> bool:
        """Whether an adapter is on its way to the device, or would be if the link were free."""
        return self._waits_for_link or bool(self._manager.pending_lora_load_events)

    def make_ledger(self, limits: Limits | None) -> AdapterLedger:
        """A ledger for one tenant's agents."""
        limits = limits or Limits()
        return AdapterLedger(
            lifetime_evictions=self._lifetime_evictions, most_agents=limits.most_agents
        )

    def name_of(self, adapter: Adapter) -> Adapter:
        """The name of an adapter; that of the base model is None."""
        ref = self._manager.lora_refs.get(adapter)
        return adapter if ref is None else ref.lora_name

    def request_arrived(self) -> None:
        """A request has arrived, with an adapter or without."""
        self._requests += 1
        self._arrivals.note()

    def used(self, adapter: Adapter, tenant: Tenant) -> None:
        """A tenant's request has run with an adapter."""
        if adapter in self._resident():
            self._policy.used(adapter, tenant)

    def step(self, running_batch: Any) -> None:
        """Once a scheduler pass, before requests are admitted: load one adapter ahead."""
        self._waits_for_link = False
        loader, horizon_steps = self._loader, self._horizon_steps
        if loader is None:
            return
        loader.drain()
        if horizon_steps is None:
            return
        expected = {tenant: each for tenant, each in self._ledgers().items() if each.by_nearness()}
        if self._arrivals.go_first() or not expected:
            return
        slots = self._slots(running_batch)
        wanted = self._wanted(expected)
        load = next_in(wanted, slots, self._order, horizon_steps=horizon_steps)
        if load is None:
            return
        prefetcher = self._scheduler.tree_cache.prefetcher
        if prefetcher is not None and prefetcher.tokens_under_way:
            self._waits_for_link = True
            return
        with self._policy.loading_ahead(load):
            loader.try_overlap_load_lora(load.adapter, set(slots.needed))

    def status(self) -> dict[str, int]:
        """What became of adapters, for `GET /kvflow/status`; a base model's slot is one."""
        counts = {name: self._counts[name] for name in _COUNTS}
        return {
            "lora_requests": self._requests,
            **counts,
            "lora_agents": sum(map(len, self._ledgers().values())),
            "lora_slots": self._pool.max_loras_per_batch,
        }

    def _ledgers(self) -> Mapping[Tenant, AdapterLedger]:
        ledgers: Mapping[Tenant, AdapterLedger] = self._scheduler.tree_cache.adapter_ledgers()
        return ledgers

    def _turn_over(self) -> None:
        for ledger in self._ledgers().values():
            ledger.turn_over()

    def _steps_of(self, tenant: Tenant, adapter: Adapter) -> int | None:
        ledger: AdapterLedger | None = self._scheduler.tree_cache.adapter_ledger(tenant)
        return None if ledger is None else ledger.steps_of(self.name_of(adapter))

    def _wanted(self, ledgers: Mapping[Tenant, AdapterLedger]) -> Iterator[AdapterLoad]:
        """The adapters that are in host memory and will be used, soonest first."""
        ids: dict[Adapter, Adapter] = {None: None}
        ids |= {ref.lora_name: adapter for adapter, ref in self._manager.lora_refs.items()}

        def loads(tenant: Tenant, ledger: AdapterLedger) -> Iterator[AdapterLoad]:
            for name in ledger.by_nearness():
                steps = ledger.steps_of(name)
                if name in ids and steps is not None:
                    yield AdapterLoad(ids[name], steps, tenant)

        of_tenants = [loads(*each) for each in ledgers.items()]
        yield from merge(*of_tenants, key=attrgetter("steps"))

    def _resident(self) -> Set[Adapter]:
        resident: Set[Adapter] = self._pool.uid_to_buffer_id.keys()
        return resident

    def _slots(self, running_batch: Any) -> Slots:
        refs = self._manager.lora_refs
        return Slots(
            count=self._pool.max_loras_per_batch,
            resident=frozenset(self._resident()),
            loading=frozenset(self._manager.pending_lora_load_events),
            needed=adapters_needed(self._scheduler, running_batch),
            pinned=frozenset(each for each, ref in refs.items() if ref.pinned),
        )
