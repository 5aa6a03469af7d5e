"""Which adapter gives up its slot and which is loaded ahead, exactly and for any state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvflow_agents.lora_ledger import Adapter
from kvflow_agents.lora_slots import AdapterLoad, SlotOrder, Slots, next_in
from kvflow_agents.tenants import Tenant

STEPS: dict[Adapter, int] = {"now": 0, "next": 1, "later": 5, "late": 5, None: 3}
Steps: TypeAlias = Mapping[Tenant, Mapping[Adapter, int]]
BY_RECENCY: list[Adapter] = ["now", "next", "late", None, "y", "x", "later"]


def order_of(
    steps: Mapping[Adapter, int], used: Iterable[Adapter], *, count: int = 8, share: float = 1.0
) -> SlotOrder:
    """An order in which adapters have been used one after another."""
    order = SlotOrder(count, lambda tenant, adapter: steps.get(adapter), expected_share=share)
    for adapter in used:
        order.touch(adapter)
    return order


def order_out(order: SlotOrder, adapters: set[Adapter]) -> list[Adapter]:
    gone: list[Adapter] = []
    while adapters:
        gone.append(order.give_up(adapters, adapters))
        order.forget(gone[-1])
        adapters = adapters - {gone[-1]}
    return gone


def load(wanted: list[Adapter], slots: Slots, horizon_steps: int = 1) -> AdapterLoad | None:
    loads = [AdapterLoad(each, STEPS[each]) for each in wanted]
    return next_in(loads, slots, order_of(STEPS, BY_RECENCY), horizon_steps=horizon_steps)


def test_the_unexpected_go_first_by_recency_then_the_furthest_from_use() -> None:
    order = order_of(STEPS, BY_RECENCY)
    assert order_out(order, {*STEPS, "x", "y"}) == ["y", "x", "late", "later", None, "next", "now"]


def test_without_forecasts_it_is_least_recently_used() -> None:
    order = order_of({}, "bca")
    assert order_out(order, {"a", "b", "c"}) == ["b", "c", "a"]


def test_nothing_to_evict_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        order_of({}, ()).first_out(set(), set())


def test_expected_adapters_keep_their_share_and_then_compete_by_recency() -> None:
    steps: dict[Adapter, int] = dict.fromkeys("abcdef", 1000)
    order = order_of(steps, "abcdefpq", share=0.75)
    slots: set[Adapter] = {*"abcdefpq"}
    # Six of eight, and one that comes, are more than three quarters.
    assert order.first_out(slots, slots) == "a"
    # Five of eight and one that comes are not.
    slots = {*"bcdefpqr"}
    order.touch("r")
    assert order.first_out(slots, slots) == "p"


def test_beyond_its_share_an_adapter_used_since_the_others_stays() -> None:
    order = order_of(dict.fromkeys("abcdef", 3), "pqabcdef", share=0.75)
    slots: set[Adapter] = {*"abcdefpq"}
    assert order.first_out(slots, slots) == "p"


@pytest.mark.parametrize("count", [2, 4, 8])
def test_an_abandoned_workflow_costs_others_no_more_than_its_adapters_take(count: int) -> None:
    abandoned: list[Adapter] = [f"a{number}" for number in range(count)]
    order = order_of(dict.fromkeys(abandoned, 1000), abandoned, count=count, share=0.75)
    assert misses(order, ["p", "q"] * 200, {*abandoned}) == 2


def misses(order: SlotOrder, calls: Iterable[Adapter], resident: set[Adapter]) -> int:
    """How many of the calls find no slot; all slots are taken."""
    missed = 0
    for adapter in calls:
        if adapter not in resident:
            missed += 1
            gone = order.give_up(resident, resident)
            order.forget(gone)
            resident = resident - {gone} | {adapter}
        order.touch(adapter)
    return missed


def of_two_tenants(steps: Steps, used: str) -> SlotOrder:
    """Small letters are tenant a's, capital ones tenant b's."""
    order = SlotOrder(8, lambda tenant, adapter: steps[tenant].get(adapter), expected_share=0.75)
    for adapter in used:
        order.touch(adapter)
        order.belongs(adapter, "a" if adapter.islower() else "b")
    return order


def test_between_tenants_recency_says_who_gives_room_and_forecasts_what() -> None:
    order = of_two_tenants({"a": {"x": 0}, "b": {}}, "xyAzB")
    # The turn is a's, for its x; it keeps that and gives y, whose place x takes: then z has its.
    assert order_out(order, {*"xyzAB"}) == ["y", "z", "A", "x", "B"]


def test_what_a_tenant_says_takes_no_slot_from_another() -> None:
    urgent: Steps = {"a": dict.fromkeys("vwxyz", 0), "b": {}}
    none: Steps = {"a": {}, "b": {}}
    told, silent = (of_two_tenants(each, "vAwBxCyz") for each in (urgent, none))
    slots: set[Adapter] = {*"vwxyzABC"}
    kept = [order_out(order, slots) for order in (told, silent)]
    lost_by_b = [[place for place, each in enumerate(gone) if each in set("ABC")] for gone in kept]
    assert lost_by_b[0] == lost_by_b[1]


def test_an_early_load_takes_a_slot_of_its_own_tenant_only() -> None:
    order = of_two_tenants({"a": {"m": 0}, "b": {"N": 1}}, "ABxyCDEF")
    slots = Slots(8, frozenset("ABxyCDEF"))
    wanted = [AdapterLoad("m", 0, "a"), AdapterLoad("N", 1, "b")]
    assert next_in(wanted, slots, order, horizon_steps=1) == wanted[0]
    candidates = order.replaceable("a", slots.evictable, slots.resident)
    assert order.first_out(candidates, slots.resident) == "x"


def test_a_tenant_without_room_of_its_own_does_not_hold_up_the_others() -> None:
    order = of_two_tenants({"a": {"m": 0}, "b": {"N": 1}}, "ABCDEFGH")
    wanted = [AdapterLoad("m", 0, "a"), AdapterLoad("N", 1, "b")]
    slots = Slots(8, frozenset("ABCDEFGH"))
    # All slots are b's: alone, it would be anybody's; x makes them two tenants'.
    order.belongs("A", None)
    assert next_in(wanted, slots, order, horizon_steps=1) == wanted[1]


def test_what_is_used_soonest_is_loaded_into_a_free_slot() -> None:
    slots = Slots(4, frozenset({"x"}))
    assert load(["now", "next"], slots) == AdapterLoad("now", 0)


def test_what_is_there_is_not_loaded_again() -> None:
    slots = Slots(4, frozenset({"now"}))
    assert load(["now", "next"], slots) == AdapterLoad("next", 1)
    assert load(["now"], slots) is None


def test_the_base_model_is_loaded_like_any_other() -> None:
    slots = Slots(2, frozenset({"x"}))
    assert load([None], slots, horizon_steps=3) == AdapterLoad(None, 3)
    assert load([None], slots, horizon_steps=2) is None


def test_one_that_is_used_as_soon_keeps_its_slot() -> None:
    assert load(["now"], Slots(1, frozenset({"next"}))) == AdapterLoad("now", 0)
    assert load(["next"], Slots(1, frozenset({"now"}))) is None
    assert load(["next"], Slots(1, frozenset({"x"}))) == AdapterLoad("next", 1)


def test_beyond_the_horizon_nothing_is_loaded() -> None:
    assert load(["later"], Slots(4, frozenset()), horizon_steps=4) is None


def test_one_at_a_time() -> None:
    slots = Slots(4, frozenset({"now"}), loading=frozenset({"now"}))
    assert load(["now", "next"], slots) is None


def test_a_waiting_request_comes_first_and_keeps_its_slot() -> None:
    missing = Slots(4, frozenset(), needed=frozenset({"x"}))
    assert load(["now"], missing) is None
    all_needed = Slots(1, frozenset({"x"}), needed=frozenset({"x"}))
    assert load(["now"], all_needed) is None


def test_a_pinned_adapter_stays() -> None:
    assert load(["now"], Slots(1, frozenset({"x"}), pinned=frozenset({"x"}))) is None


ADAPTERS = st.none() | st.sampled_from("abcdef")
SETS = st.frozensets(ADAPTERS)


@given(st.data())
def test_no_load_takes_what_is_used_or_needed_sooner(data: st.DataObject) -> None:
    resident = data.draw(SETS)
    slots = Slots(
        count=data.draw(st.integers(max(1, len(resident)), 8)),
        resident=resident,
        loading=data.draw(SETS) & resident,
        needed=data.draw(SETS),
        pinned=data.draw(SETS),
    )
    steps = data.draw(st.dictionaries(ADAPTERS, st.integers(0, 3)))
    share = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    used = data.draw(st.lists(ADAPTERS, unique=True))
    order = order_of(steps, used, count=slots.count, share=share)
    horizon_steps = data.draw(st.integers(0, 3))
    wanted = [AdapterLoad(each, steps[each]) for each in sorted(steps, key=steps.__getitem__)]
    planned = next_in(wanted, slots, order, horizon_steps=horizon_steps)
    if planned is None:
        return
    assert not slots.loading
    assert slots.needed <= slots.resident
    assert planned.adapter not in slots.resident
    assert planned.steps == steps[planned.adapter] <= horizon_steps
    missing = [each.adapter for each in wanted if each.adapter not in slots.resident]
    assert planned.steps == min(steps[each] for each in missing)
    if len(slots.resident) == slots.count:
        victim = order.first_out(slots.evictable, slots.resident)
        assert victim not in slots.needed | slots.loading | slots.pinned
        assert victim not in steps or steps[victim] > planned.steps


@given(
    st.dictionaries(ADAPTERS, st.none() | st.integers(0, 3), min_size=1),
    st.lists(ADAPTERS, unique=True),
)
def test_the_order_is_total_and_does_not_depend_on_that_of_the_candidates(
    steps: dict[Adapter, int | None], used: list[Adapter]
) -> None:
    known = {each: count for each, count in steps.items() if count is not None}
    order = order_of(known, used)
    chosen = order.first_out(steps.keys(), list(steps))
    assert order.first_out(dict(reversed(steps.items())).keys(), list(steps)[::-1]) == chosen
    if len(known) < len(steps):
        assert steps[chosen] is None
    else:
        assert steps[chosen] == max(known.values())
