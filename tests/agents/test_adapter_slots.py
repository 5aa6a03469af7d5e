"""Which adapter gives up its slot and which is loaded ahead, exactly and for any state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvflow_agents.adapter_slots import AdapterLoad, Slots, first_out, next_in
from kvflow_agents.adapters import Adapter

STEPS: dict[Adapter, int] = {"now": 0, "next": 1, "later": 5, "late": 5, None: 3}
USED: dict[Adapter, int] = {"now": 1, "next": 2, "later": 9, "late": 3, None: 4, "x": 7, "y": 6}


def used(adapter: Adapter) -> int:
    return USED.get(adapter, 0)


def order_out(adapters: set[Adapter]) -> list[Adapter]:
    order = []
    while adapters:
        order.append(first_out(adapters, STEPS.get, used))
        adapters = adapters - {order[-1]}
    return order


def load(wanted: list[Adapter], slots: Slots, horizon_steps: int = 1) -> AdapterLoad | None:
    return next_in(wanted, slots, horizon_steps=horizon_steps, steps_of=STEPS.get, last_used=used)


def test_the_unexpected_go_first_by_recency_then_the_furthest_from_use() -> None:
    every = {*STEPS, "x", "y"}
    assert order_out(every) == ["y", "x", "late", "later", None, "next", "now"]


def test_without_forecasts_it_is_least_recently_used() -> None:
    recency = {"a": 3, "b": 1, "c": 2}
    assert first_out(recency, lambda _: None, lambda each: recency[each or ""]) == "b"


def test_nothing_to_evict_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        first_out([], STEPS.get, used)


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
    recency = data.draw(st.dictionaries(ADAPTERS, st.integers(0, 5)))
    horizon_steps = data.draw(st.integers(0, 3))

    def last_used(adapter: Adapter) -> int:
        return recency.get(adapter, 0)

    wanted = sorted(steps, key=steps.__getitem__)
    planned = next_in(
        wanted, slots, horizon_steps=horizon_steps, steps_of=steps.get, last_used=last_used
    )
    if planned is None:
        return
    assert not slots.loading
    assert slots.needed <= slots.resident
    assert planned.adapter not in slots.resident
    assert planned.steps == steps[planned.adapter] <= horizon_steps
    missing = [each for each in wanted if each not in slots.resident]
    assert planned.steps == min(steps[each] for each in missing)
    if len(slots.resident) == slots.count:
        victim = first_out(slots.evictable, steps.get, last_used)
        assert victim not in slots.needed | slots.loading | slots.pinned
        assert victim not in steps or steps[victim] > planned.steps


@given(st.dictionaries(ADAPTERS, st.tuples(st.none() | st.integers(0, 3), st.integers(0, 9))))
def test_the_order_is_total_and_does_not_depend_on_that_of_the_candidates(
    state: dict[Adapter, tuple[int | None, int]],
) -> None:
    if not state:
        return
    candidates = list(state)

    def first(adapters: list[Adapter]) -> Adapter:
        return first_out(adapters, lambda each: state[each][0], lambda each: state[each][1])

    chosen = first(candidates)
    assert first(candidates[::-1]) == chosen
    if any(steps is None for steps, _ in state.values()):
        assert state[chosen][0] is None
    else:
        assert state[chosen][0] == max(steps or 0 for steps, _ in state.values())
