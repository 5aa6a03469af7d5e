"""The policy behind SGLang's slots for adapters, without a server."""

from __future__ import annotations

from collections import Counter

import pytest

from kvflow_agents.errors import ConfigurationError
from kvflow_agents.lora_ledger import Adapter, AdapterLedger
from kvflow_agents.lora_slots import AdapterLoad, SlotOrder
from kvflow_sglang.lora import ForecastEviction
from kvflow_sglang.settings import Settings


class Pool:
    """Slots as `LoRAMemoryPool.prepare_lora_batch` fills them."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.resident: dict[Adapter, int] = {}
        self.ledger = AdapterLedger(lifetime_evictions=100)
        self.counts: Counter[str] = Counter()
        order = SlotOrder(
            slots, lambda tenant, each: self.ledger.steps_of(each), expected_share=1.0
        )
        self.policy = ForecastEviction(self.resident.keys, order, self.counts)
        self.evicted: list[Adapter] = []

    def run(self, *adapters: Adapter) -> None:
        self.prepare(*adapters)
        for adapter in adapters:
            self.policy.used(adapter)

    def prepare(self, *adapters: Adapter) -> None:
        self.policy.begin(set(adapters))
        for adapter in adapters:
            self.policy.mark_used(adapter)
        for adapter in adapters:
            if adapter not in self.resident:
                self._make_room(set(adapters))
                self.resident[adapter] = 1

    def load_ahead(self, adapter: Adapter, *kept: Adapter) -> None:
        with self.policy.loading_ahead(AdapterLoad(adapter, 0)):
            self.prepare(adapter, *kept)

    def expect(self, **steps: int) -> None:
        for adapter, count in steps.items():
            name = None if adapter == "base" else adapter
            self.ledger.called("run", None, f"agent-{adapter}", name, count)

    def _make_room(self, in_use: set[Adapter]) -> None:
        if len(self.resident) < self.slots:
            return
        # SGLang names the base model only where nothing else is left.
        candidates = set(self.resident) - in_use
        victim = self.policy.select_victim(candidates - {None} or candidates)
        assert victim not in in_use
        del self.resident[victim]
        self.policy.remove(victim)
        self.evicted.append(victim)


def test_without_forecasts_the_least_recently_used_goes() -> None:
    pool = Pool(2)
    for adapter in ("a", "b", "a", "c", "d"):
        pool.run(adapter)
    assert pool.evicted == ["b", "a"]


def test_the_furthest_from_use_goes_after_those_nobody_expects() -> None:
    pool = Pool(3)
    pool.expect(a=3, b=1)
    for adapter in ("a", "b", "x", "y", "z"):
        pool.run(adapter)
    assert pool.evicted == ["x", "y"]
    pool.expect(z=0, c=2)
    pool.run("c")
    assert pool.evicted == ["x", "y", "a"]


def test_the_base_model_competes_like_any_other() -> None:
    pool = Pool(2)
    pool.expect(base=9, a=1, b=0)
    for adapter in (None, "a", "b"):
        pool.run(adapter)
    assert pool.evicted == [None]
    pool.expect(base=0, a=1, b=5)
    pool.run(None)
    assert pool.evicted == [None, "b"]


def test_a_base_model_in_use_keeps_its_slot() -> None:
    pool = Pool(2)
    pool.expect(base=9, a=1)
    pool.run(None)
    pool.run("a")
    pool.run(None, "b")
    assert pool.evicted == ["a"]


def test_to_keep_a_slot_during_an_early_load_is_no_use() -> None:
    pool = Pool(3)
    for adapter in ("a", "b", "c"):
        pool.run(adapter)
    pool.load_ahead("d", "b")
    pool.run("e")
    assert pool.evicted == ["a", "b"]


def test_early_loads_are_counted_by_what_became_of_them() -> None:
    pool = Pool(2)
    pool.load_ahead("a")
    pool.load_ahead("b")
    pool.run("b")
    pool.run("c")
    assert pool.counts == {
        "lora_prefetches": 2,
        "lora_prefetches_used": 1,
        "lora_prefetches_wasted": 1,
        "lora_loads": 1,
        "lora_evictions": 1,
    }


def test_an_early_load_that_only_keeps_its_slot_during_another_load_is_no_use() -> None:
    pool = Pool(3)
    pool.load_ahead("a")
    # SGLang names what is on its way among the adapters of the batch.
    pool.prepare("x", "a")
    assert pool.counts["lora_prefetches_used"] == 0
    pool.run("b")
    pool.run("c")
    assert pool.evicted == ["a"]
    assert pool.counts["lora_prefetches_wasted"] == 1


def test_kv_and_adapters_are_switched_each_alone() -> None:
    assert Settings(kv=False).lora
    assert Settings(lora=False).kv
    assert Settings(lora_prefetch_steps=None).prefetch_steps == 1
    with pytest.raises(ConfigurationError, match="kv must be true or false"):
        Settings(kv=1)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="lora_prefetch_steps must be an integer"):
        Settings(lora_prefetch_steps=-1)
