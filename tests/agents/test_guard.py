"""Forecasts that find less than LRU would are not heeded; others are."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest

from kvflow_agents.guard import FEWEST_REQUESTS, SHORTEST_PENALTY, Guard
from kvflow_agents.shadow import Shares


def seen(cached: int, lru: int, blocks: int = 32) -> Shares:
    return Shares(1, blocks, cached, lru, blocks, 0)


def requests_heeded(guard: Guard, shares: Iterable[Shares]) -> Iterator[bool]:
    for each in shares:
        before = guard.heeds
        assert guard.note(each) == (guard.heeds != before)
        yield before


def test_as_much_as_lru_is_enough() -> None:
    guard = Guard()
    assert all(requests_heeded(guard, [seen(16, 16)] * 5000))


def test_a_loss_within_the_noise_is_none() -> None:
    chance = random.Random(0)
    shares = [seen(chance.choice((0, 32)), chance.choice((0, 32))) for _ in range(3000)]
    guard = Guard()
    heeded = sum(requests_heeded(guard, shares))
    assert heeded > 2000


def test_a_steady_loss_is_found_out_and_forecasts_tried_again_later() -> None:
    guard = Guard()
    heeded = list(requests_heeded(guard, [seen(8, 16)] * 2000))
    assert heeded[:FEWEST_REQUESTS] == [True] * FEWEST_REQUESTS
    off = heeded[FEWEST_REQUESTS : FEWEST_REQUESTS + SHORTEST_PENALTY]
    assert not any(off)
    assert heeded[FEWEST_REQUESTS + SHORTEST_PENALTY]
    assert guard.trips > 1


def test_penalties_grow_so_that_a_steady_loss_costs_little() -> None:
    guard = Guard()
    shares = [seen(0, 32)] * 50_000
    heeded = sum(requests_heeded(guard, shares))
    assert heeded / len(shares) < 0.01


def test_who_does_well_for_long_is_forgiven() -> None:
    guard = Guard()
    list(requests_heeded(guard, [seen(0, 32)] * (FEWEST_REQUESTS + SHORTEST_PENALTY + 1)))
    list(requests_heeded(guard, [seen(32, 16)] * 20_000))
    trips = guard.trips
    heeded = list(requests_heeded(guard, [seen(0, 32)] * 20_000))
    first_off = heeded.index(False)
    assert heeded.index(True, first_off) - first_off == SHORTEST_PENALTY
    assert guard.trips > trips


@pytest.mark.parametrize(("cached", "lru"), [(100, 101), (1, 0)])
def test_two_in_a_hundred_are_borne(cached: int, lru: int) -> None:
    guard = Guard()
    assert all(requests_heeded(guard, [seen(cached, lru, blocks=200)] * 3000))
