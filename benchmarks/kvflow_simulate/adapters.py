"""The device's slots for LoRA adapters, as the server keeps them: who is there, who comes next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Protocol

from kvflow_agents.lora_ledger import Adapter
from kvflow_agents.lora_slots import AdapterLoad, SlotOrder, Slots, next_in


class AdapterOrder(Protocol):
    """What a policy knows of when adapters are used."""

    lora_prefetch_steps: int | None
    """How far ahead adapters are loaded; None: not at all."""
    expected_share: float
    """The share of the slots that expected adapters keep before they compete by recency."""

    def adapter_steps(self, adapter: Adapter) -> int | None: ...
    def adapters_by_nearness(self) -> Iterable[Adapter]: ...
    def adapter_evicted(self) -> None: ...


class AdapterSlots:
    """The slots of one engine; at first the base model is in one, as in SGLang.

    With `overlaps` a load goes on beside the computation and its requests are passed over, without
    it the batch that needs it waits. `load` queues a copy on the link and tells when it ends.
    """

    def __init__(
        self,
        count: int,
        policy: AdapterOrder,
        *,
        overlaps: bool,
        counts_uses: bool,
        load: Callable[[], float],
    ) -> None:
        """`counts_uses`: whether recency is that of the last use, not that of the load alone."""
        self.counts: Counter[str] = Counter()
        self.needs_link = False
        """Whether an adapter would be loaded ahead if the link were free."""
        self._count = count
        self._policy = policy
        self._order = SlotOrder(
            count,
            lambda tenant, adapter: policy.adapter_steps(adapter),
            expected_share=policy.expected_share,
        )
        self._overlaps = overlaps
        self._horizon_steps = policy.lora_prefetch_steps if overlaps else None
        self._counts_uses = counts_uses
        self._load = load
        self._resident: set[Adapter] = {None}
        self._ends_s: dict[Adapter, float] = {}
        self._unused: set[Adapter] = set()  # loaded ahead, and not used yet

    @property
    def loads_ahead(self) -> bool:
        """Whether adapters are loaded before they are asked for."""
        return self._horizon_steps is not None

    @property
    def loading(self) -> Set[Adapter]:
        """Those that are on their way."""
        return self._ends_s.keys()

    @property
    def next_end_s(self) -> float:
        """When the next load ends."""
        return min(self._ends_s.values(), default=float("inf"))

    def check(self) -> None:
        """Assert that the books are right; for tests."""
        assert len(self._resident) <= self._count, "more adapters than slots"
        assert self._unused | self.loading <= self._resident, "an adapter is nowhere"

    def land(self, now_s: float) -> None:
        """Note which loads are done."""
        self._ends_s = {each: ends_s for each, ends_s in self._ends_s.items() if ends_s > now_s}

    def admits(self, adapter: Adapter, in_use: Set[Adapter]) -> bool:
        """Whether a request may join those that use `in_use`; its load is started if need be."""
        if adapter not in self._resident:
            taken = in_use | self.loading
            if len(taken | {adapter}) > self._count:
                return False
            self._bring(adapter, taken)
            self.counts["adapter_loads"] += 1
        return not (self._overlaps and adapter in self.loading)

    def use(self, adapter: Adapter) -> float:
        """A request begins to use an adapter; when that will be there."""
        if adapter in self._unused:
            self._unused.discard(adapter)
            self.counts["adapter_prefetches_used"] += 1
        if self._counts_uses:
            self._order.touch(adapter)
        return self._ends_s.get(adapter, 0.0)

    def load_ahead(self, needed: Set[Adapter], *, link_is_free: bool) -> None:
        """Before requests are admitted: load one adapter that none of `needed` has to go for."""
        self.needs_link = False
        if self._horizon_steps is None:
            return
        load = next_in(
            self._wanted(),
            Slots(
                self._count,
                frozenset(self._resident),
                loading=frozenset(self.loading),
                needed=frozenset(needed),
            ),
            self._order,
            horizon_steps=self._horizon_steps,
        )
        if load is None:
            return
        self.needs_link = not link_is_free
        if link_is_free:
            self._bring(load.adapter, needed)
            self._unused.add(load.adapter)
            self.counts["adapter_prefetches"] += 1

    def _bring(self, adapter: Adapter, kept: Set[Adapter]) -> None:
        if len(self._resident) >= self._count:
            gone = self._order.give_up(self._resident - kept - self.loading, self._resident)
            self._resident.remove(gone)
            self._order.forget(gone)
            self._policy.adapter_evicted()
            if gone in self._unused:
                self._unused.discard(gone)
                self.counts["adapter_prefetches_wasted"] += 1
        self._resident.add(adapter)
        self._ends_s[adapter] = self._load()
        self._order.touch(adapter)

    def _wanted(self) -> Iterator[AdapterLoad]:
        for adapter in self._policy.adapters_by_nearness():
            steps = self._policy.adapter_steps(adapter)
            if steps is not None:
                yield AdapterLoad(adapter, steps)
