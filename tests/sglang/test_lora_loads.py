"""Early loads of adapters under way: who waits for them, and that all ranks agree."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kvflow_agents.arrivals import MOST_PUT_OFF
from kvflow_agents.errors import IncompatibleServerError
from kvflow_agents.lora_ledger import Adapter, AdapterLedger
from kvflow_agents.tenants import Tenant
from kvflow_sglang.lora import AdapterSlots
from kvflow_sglang.settings import Settings

SLOTS = 3


class Event:
    """Of a copy that takes as long as the test wants."""

    is_done = False

    def __init__(self) -> None:
        Event.made.append(self)

    made: list[Event] = []

    def record(self, stream: object) -> None:
        """Nothing runs on the stream."""

    def query(self) -> bool:
        return self.is_done


def name_of(adapter: str) -> str:
    """Here an id is a name and the number of times that it was loaded before."""
    return adapter.rstrip("0123456789")


class Manager:
    """Slots and adapters, as far as SGLang's `LoRAManager` is asked for them."""

    def __init__(self, *adapters: str) -> None:
        self.device = "cpu"
        self.pending_lora_load_events: dict[Adapter, Event] = {}
        self.loras = dict.fromkeys(adapters)
        self.lora_refs = {
            each: SimpleNamespace(lora_name=name_of(each), pinned=False) for each in adapters
        }
        self.memory_pool: Any = SimpleNamespace(
            uid_to_buffer_id={}, max_loras_per_batch=SLOTS, eviction_policy=None
        )

    def load(self, adapter: str) -> None:
        self.loras[adapter] = None
        self.lora_refs[adapter] = SimpleNamespace(lora_name=name_of(adapter), pinned=False)

    def unload(self, adapter: str) -> None:
        self.pending_lora_load_events.pop(adapter, None)
        if self.memory_pool.uid_to_buffer_id.pop(adapter, None) is not None:
            self.memory_pool.eviction_policy.remove(adapter)
        del self.loras[adapter], self.lora_refs[adapter]

    def validate_lora_batch(self, adapters: set[Adapter]) -> bool:
        return len(adapters) <= SLOTS

    def fetch_new_loras(self, new: set[Adapter], running: set[Adapter]) -> None:
        held, policy = self.memory_pool.uid_to_buffer_id, self.memory_pool.eviction_policy
        policy.begin(new | running)
        for adapter in new | running:
            policy.mark_used(adapter)
        for adapter in new - held.keys():
            if len(held) == SLOTS:
                pinned = {each for each, ref in self.lora_refs.items() if ref.pinned}
                victim = policy.select_victim(held.keys() - new - running - pinned - {None})
                del held[victim]
                policy.remove(victim)
            held[adapter] = 0


class Server:
    """A scheduler of one rank; `others` is how many loads the slowest other rank has finished."""

    def __init__(self, *adapters: str) -> None:
        self.manager = Manager(*adapters)
        self.others = 1000
        self.prefetcher = SimpleNamespace(tokens_under_way=0)
        self.ledgers: dict[Tenant, AdapterLedger] = {}
        runner = SimpleNamespace(lora_manager=self.manager)
        self.scheduler: Any = SimpleNamespace(
            tp_worker=SimpleNamespace(model_runner=runner),
            tree_cache=SimpleNamespace(
                prefetcher=self.prefetcher,
                _all_reduce=self._least,
                adapter_ledger=self.ledgers.get,
                adapter_ledgers=lambda: self.ledgers,
            ),
            enable_lora_overlap_loading=True,
            last_batch=None,
            chunked_req=None,
            waiting_queue=[],
        )
        self.slots = AdapterSlots(self.scheduler, Settings())
        device: Any = SimpleNamespace(
            Event=Event, current_stream=lambda: SimpleNamespace(wait_event=lambda event: None)
        )
        self.loader = self.scheduler.lora_overlap_loader
        self.loader.device_module = device

    def expect(self, tenant: Tenant = None, **steps: int) -> None:
        ledger = self.ledgers.setdefault(tenant, self.slots.make_ledger(None))
        for adapter, count in steps.items():
            ledger.called("run", None, f"agent of {adapter}", adapter, count)

    def run(self, adapter: str, tenant: Tenant = None) -> None:
        """A request finds its adapter, or waits for it, and is answered."""
        self.manager.fetch_new_loras({adapter}, set())
        self.slots.used(adapter, tenant)

    @property
    def resident(self) -> set[Adapter]:
        return set(self.manager.memory_pool.uid_to_buffer_id)

    def step(self, *running: str) -> set[Adapter]:
        """One pass of the scheduler; the adapters that are under way after it."""
        requests = [SimpleNamespace(lora_id=each) for each in running]
        self.slots.step(SimpleNamespace(reqs=requests))
        return set(self.manager.pending_lora_load_events)

    def waits(self, *adapters: str) -> None:
        self.scheduler.waiting_queue = [SimpleNamespace(lora_id=each) for each in adapters]

    def _least(self, count: torch.Tensor, op: object) -> None:
        assert op == torch.distributed.ReduceOp.MIN
        count.clamp_(max=self.others)


@pytest.fixture(autouse=True)
def fresh_events() -> None:
    Event.made = []


def land() -> None:
    for event in Event.made:
        event.is_done = True


def test_one_load_at_a_time_soonest_first() -> None:
    server = Server("a", "b")
    server.expect(b=1, a=0)
    assert server.step() == {"a"}
    assert server.step() == {"a"}
    land()
    assert server.step() == {"b"}
    land()
    assert server.step() == set()
    assert server.slots.status()["lora_prefetches"] == 2


def test_a_request_whose_adapter_is_under_way_is_passed_over_and_loads_nothing_else() -> None:
    server = Server("a")
    server.expect(a=1)
    server.step()
    assert not server.loader.try_overlap_load_lora("a", set())
    assert len(Event.made) == 1
    land()
    server.step()
    assert server.loader.try_overlap_load_lora("a", set())
    assert len(Event.made) == 1
    server.slots.used("a", None)
    assert server.slots.status()["lora_prefetches_used"] == 1
    assert server.slots.status()["lora_loads"] == 0


def test_a_load_is_done_when_it_is_done_on_every_rank() -> None:
    server = Server("a", "b")
    server.expect(a=0, b=1)
    server.step()
    land()
    server.others = 0
    assert server.step() == {"a"}
    assert not server.loader.try_overlap_load_lora("a", set())
    server.others = 1
    assert server.step() == {"b"}


def test_ranks_agree_once_a_pass_however_many_requests_wait() -> None:
    server = Server("a")
    server.expect(a=1)
    server.step()
    asked: list[object] = []
    server.scheduler.tree_cache._all_reduce = lambda count, op: asked.append(op)
    server.step()
    for _ in range(5):
        assert not server.loader.try_overlap_load_lora("a", set())
    assert len(asked) == 1


def test_loads_for_requests_are_done_although_none_are_made_ahead() -> None:
    server = Server("a")
    device = server.loader.device_module
    server.slots = AdapterSlots(server.scheduler, Settings(lora_prefetch_steps=None))
    loader = server.scheduler.lora_overlap_loader
    loader.device_module = device
    assert not loader.try_overlap_load_lora("a", set())
    land()
    server.step()
    assert loader.try_overlap_load_lora("a", set())


def test_none_is_started_while_a_request_waits_for_another() -> None:
    server = Server("a", "b")
    server.expect(a=0)
    server.waits("b")
    assert server.step() == set()
    server.waits()
    assert server.step() == {"a"}


def test_arrivals_go_first_but_not_for_ever() -> None:
    server = Server("a")
    server.expect(a=0)
    started = []
    for _ in range(MOST_PUT_OFF + 1):
        server.slots.request_arrived()
        started.append(bool(server.step()))
    assert started == [False] * MOST_PUT_OFF + [True]


def test_the_pass_after_an_arrival_sends_first_tokens_and_loads_nothing() -> None:
    server = Server("a")
    server.expect(a=0)
    server.slots.request_arrived()
    assert [bool(server.step()) for _ in range(3)] == [False, False, True]


def test_slots_of_running_and_waiting_requests_are_not_taken() -> None:
    server = Server("a", "b", "c", "d")
    for adapter in ("a", "b", "c"):
        server.manager.fetch_new_loras({adapter}, set())
    server.expect(d=0)
    server.waits("b")
    assert server.step("a") == {"d"}
    assert server.resident == {"a", "b", "d"}
    land()
    server.expect(c=0)
    server.waits("b", "d")
    assert server.step("a") == set()


def test_an_adapter_that_was_unloaded_is_not_loaded_ahead_and_under_its_name_it_is_again() -> None:
    server = Server("a", "b")
    server.expect(a=0, b=1)
    server.manager.unload("a")
    assert server.step() == {"b"}
    land()
    server.manager.load("a2")
    assert server.step() == {"a2"}


def test_one_that_is_unloaded_on_its_way_is_forgotten_and_counted_as_wasted() -> None:
    server = Server("a", "b")
    server.expect(a=0, b=1)
    assert server.step() == {"a"}
    server.manager.unload("a")
    assert server.step() == {"b"}
    assert server.resident == {"b"}
    assert server.slots.status()["lora_prefetches_wasted"] == 1


def test_a_load_that_a_request_needs_beside_an_early_one_does_not_use_that() -> None:
    server = Server("a", "b")
    server.expect(a=0)
    assert server.step() == {"a"}
    assert not server.loader.try_overlap_load_lora("b", set())
    assert server.slots.status()["lora_prefetches_used"] == 0
    assert server.slots.status()["lora_loads"] == 1


def test_a_pinned_adapter_stays_whatever_is_expected() -> None:
    server = Server("a", "b", "c", "d")
    for adapter in "abc":
        server.run(adapter)
    server.manager.lora_refs["a"].pinned = True
    server.expect(d=0)
    assert server.step() == {"d"}
    assert server.resident == {"a", "c", "d"}
    land()
    for each in "cd":
        server.manager.lora_refs[each].pinned = True
    server.expect(b=0)
    assert server.step() == set()


def test_an_early_load_takes_no_slot_of_another_tenant() -> None:
    server = Server("a", "b", "c", "d")
    for adapter, tenant in (("a", "one"), ("b", "two"), ("c", "two")):
        server.run(adapter, tenant)
    server.expect("two", d=0)
    assert server.step() == {"d"}
    assert server.resident == {"a", "c", "d"}
    land()
    # What was loaded for a tenant is its own.
    server.expect("one", b=0, a=0)
    assert server.step() == set()


def test_adapters_and_kv_share_the_link() -> None:
    server = Server("a")
    server.expect(a=0)
    assert not server.slots.needs_link
    server.prefetcher.tokens_under_way = 100
    assert server.step() == set()
    assert server.slots.needs_link
    server.prefetcher.tokens_under_way = 0
    assert server.step() == {"a"}
    assert server.slots.needs_link
    land()
    server.step()
    assert not server.slots.needs_link


def test_a_manager_that_is_not_sglangs_of_this_version_is_refused() -> None:
    server = Server("a")
    del server.manager.memory_pool.uid_to_buffer_id
    with pytest.raises(IncompatibleServerError, match="memory_pool.uid_to_buffer_id"):
        AdapterSlots(server.scheduler, Settings())


def test_switched_off_or_without_overlap_loading_nothing_is_loaded_ahead() -> None:
    server = Server("a")
    server.scheduler.enable_lora_overlap_loading = False
    del server.scheduler.lora_overlap_loader
    server.slots = AdapterSlots(server.scheduler, Settings())
    server.expect(a=0)
    assert server.step() == set()
    assert not hasattr(server.scheduler, "lora_overlap_loader")
    server.scheduler.enable_lora_overlap_loading = True
    server.slots = AdapterSlots(server.scheduler, Settings(lora_prefetch_steps=None))
    server.expect(a=0)
    assert server.step() == set()
