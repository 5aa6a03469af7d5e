"""Adapters by forecast come to what the optimum reaches, on workloads that LRU loses."""

from __future__ import annotations

import pytest

from lora_hits import (
    SLOTS,
    Call,
    cyclic,
    forecast_share,
    loras_of,
    lru_share,
    optimal_share,
    simulation,
)

CALLS = 1000


def by_forecast(calls: list[Call]) -> float:
    return forecast_share(calls, SLOTS, horizon_steps=None)


@pytest.mark.parametrize("agents", [9, 10, 16, 40])
@pytest.mark.parametrize("with_base", [False, True])
def test_a_cycle_reaches_the_optimum_where_lru_finds_nothing(agents: int, with_base: bool) -> None:
    calls = cyclic(agents=agents, calls=CALLS, with_base=with_base)
    assert lru_share(calls, SLOTS) == 0
    assert by_forecast(calls) == optimal_share(calls, SLOTS)
    assert optimal_share(calls, SLOTS) == pytest.approx((SLOTS - 1) / (agents - 1), abs=0.02)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("agents", "adapters", "active"), [(50, 50, 0.2), (100, 25, 0.2)])
def test_a_simulation_comes_close_to_the_optimum(
    agents: int, adapters: int, active: float, seed: int
) -> None:
    calls = simulation(agents=agents, adapters=adapters, calls=CALLS, active=active, seed=seed)
    optimum = optimal_share(calls, SLOTS)
    assert optimum - by_forecast(calls) <= 0.03
    assert by_forecast(calls) > lru_share(calls, SLOTS) + 0.1


def test_one_slot_holds_who_calls() -> None:
    calls = cyclic(agents=3, calls=30)
    assert forecast_share(calls, 1, horizon_steps=None) == optimal_share(calls, 1) == 0


def test_loaded_ahead_only_the_first_round_of_a_cycle_is_missed() -> None:
    calls = cyclic(agents=16, calls=CALLS)
    assert forecast_share(calls, SLOTS, horizon_steps=1) == 1 - 16 / CALLS


def test_told_beforehand_shared_adapters_come_to_the_optimum() -> None:
    calls = simulation(agents=100, adapters=25, calls=500, seed=1)
    told = forecast_share(calls, SLOTS, horizon_steps=None, loras=loras_of(calls))
    assert told > by_forecast(calls)
    assert told == pytest.approx(optimal_share(calls, SLOTS), abs=0.01)
