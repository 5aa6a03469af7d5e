"""The device's slots for LoRA adapters: given up by forecast, and filled ahead of requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Any

from kvflow_agents.adapter_slots import Slots, first_out, next_in
from kvflow_agents.adapters import FEWEST_LIFETIME_EVICTIONS, Adapter, AdapterLedger
from kvflow_agents.arrivals import Arrivals
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
        self, resident: Callable[[], Set[Adapter]], ledger: AdapterLedger, counts: Counter[str]
    ) -> None:
        self._resident = resident
        self._ledger = ledger
        self._counts = counts
        self._uses = 0
        self._last_used: dict[Adapter, int] = {}
        self._in_use: Set[Adapter] = frozenset()
        self._is_ahead = False
        self._unused: set[Adapter] = set()  # loaded ahead, and not used yet

    def begin(self, adapters: Set[Adapter]) -> None:
        """A batch is about to use these, or one of them is about to be loaded ahead."""
        self._in_use = frozenset(adapters)
        missing = self._in_use - self._resident()
        if self._is_ahead:
            self._unused |= missing
        self._counts["lora_prefetches" if self._is_ahead else "lora_loads"] += len(missing)

    @contextmanager
    def loading_ahead(self) -> Iterator[None]:
        """What is loaded meanwhile is not asked for by a request yet."""
        self._is_ahead = True
        try:
            yield
        finally:
            self._is_ahead = False

    def last_used(self, adapter: Adapter) -> int:
        """The number of its last use; larger is more recent."""
        return self._last_used.get(adapter, 0)

    def mark_used(self, uid: Adapter) -> None:
        """An adapter is used or loaded; what only keeps its slot during another's load is not."""
        if self._is_ahead and uid in self._last_used:
            return
        self._uses += 1
        self._last_used[uid] = self._uses
        if not self._is_ahead and uid in self._unused:
            self._unused.discard(uid)
            self._counts["lora_prefetches_used"] += 1

    def select_victim(self, candidates: Set[Adapter]) -> Adapter:
        """The one to give up its slot. SGLang spares the base model while it can; we do not."""
        spared = {None} & self._resident() - self._in_use
        self._counts["lora_evictions"] += 1
        self._ledger.turn_over()
        return first_out(candidates | spared, self._ledger.steps_of, self.last_used)

    def remove(self, uid: Adapter) -> None:
        """An adapter leaves its slot."""
        self._last_used.pop(uid, None)
        if uid in self._unused:
            self._unused.discard(uid)
            self._counts["lora_prefetches_wasted"] += 1


class AdapterSlots:
    """Keeps the adapters that will be used soonest in the slots of one scheduler.

    Everything follows from requests, messages and loads that all ranks agree are done.
    """

    def __init__(self, scheduler: Any, settings: Settings) -> None:
        self._scheduler = scheduler
        self._manager = lora_manager(scheduler)
        self._pool = self._manager.memory_pool
        self._horizon_steps = settings.lora_prefetch_steps
        self._arrivals = Arrivals()
        self._requests = 0
        self._counts: Counter[str] = Counter()
        lifetime = int(settings.lifetime_pools * self._pool.max_loras_per_batch)
        self.ledger = AdapterLedger(lifetime_evictions=max(lifetime, FEWEST_LIFETIME_EVICTIONS))
        self._policy = ForecastEviction(self._resident, self.ledger, self._counts)
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

    def request_arrived(self) -> None:
        """A request has arrived, with an adapter or without."""
        self._requests += 1
        self._arrivals.note()

    def used(self, adapter: Adapter) -> None:
        """A request has run with an adapter."""
        if adapter in self._resident():
            self._policy.mark_used(adapter)

    def step(self, running_batch: Any) -> None:
        """Once a scheduler pass, before requests are admitted: load one adapter ahead."""
        self._waits_for_link = False
        loader, horizon_steps = self._loader, self._horizon_steps
        if loader is None or horizon_steps is None:
            return
        loader.drain()
        if self._arrivals.go_first() or not self.ledger.by_nearness():
            return
        slots = self._slots(running_batch)
        load = next_in(
            self._served(horizon_steps),
            slots,
            horizon_steps=horizon_steps,
            steps_of=self.ledger.steps_of,
            last_used=self._policy.last_used,
        )
        if load is None:
            return
        prefetcher = self._scheduler.tree_cache.prefetcher
        if prefetcher is not None and prefetcher.tokens_under_way:
            self._waits_for_link = True
            return
        with self._policy.loading_ahead():
            loader.try_overlap_load_lora(load.adapter, set(slots.needed))

    def status(self) -> dict[str, int]:
        """What became of adapters, for `GET /kvflow/status`; a base model's slot is one."""
        counts = {name: self._counts[name] for name in _COUNTS}
        return {
            "lora_requests": self._requests,
            **counts,
            "lora_agents": len(self.ledger),
            "lora_slots": self._pool.max_loras_per_batch,
        }

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

    def _served(self, horizon_steps: int) -> list[Adapter]:
        """The adapters to be used soon; those that were unloaded meanwhile are forgotten."""
        soon = []
        for adapter in self.ledger.by_nearness():
            if (self.ledger.steps_of(adapter) or 0) > horizon_steps:
                break
            soon.append(adapter)
        gone = [each for each in soon if each is not None and each not in self._manager.loras]
        for adapter in gone:
            self.ledger.remove(adapter)
        return [each for each in soon if each not in gone]
