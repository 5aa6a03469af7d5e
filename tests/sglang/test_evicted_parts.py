"""Of a prefix that an agent is expected to use no more is evicted than has to be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvflow_agents.eviction import FEWEST_PART_TOKENS, MOST_PARTS
from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint
from kvflow_sglang.settings import VARIABLE
from kvflow_sglang.standalone import StandaloneCache

POOL_TOKENS = 1000
PREFIX = list(range(1000, 1400))
STEPS = {"writer": 1, "critic": 2}


def hint(seq: int) -> Hint:
    return Hint("run", Forecast(seq, STEPS), agent="writer", app="app", at_ms=seq)


def cache_with_prefix(*, is_hinted: bool = True, **options: Any) -> StandaloneCache:
    """With one prefix, read twice, by an agent that is expected if there are hints."""
    cache = StandaloneCache("kvflow", pool_tokens=POOL_TOKENS, **options)
    for tail in range(2):
        cache.run([*PREFIX, tail], hint=hint(tail) if is_hinted else None)
    # What the runs have added is spent or nobody's, and goes first.
    cache.evict(2)
    return cache


def cached_tokens(cache: StandaloneCache) -> int:
    length: int = cache.match(PREFIX).device_prefix_len
    return length


@pytest.mark.parametrize("wanted_tokens", [60, 130, 399, 400])
def test_as_much_goes_as_is_wanted(wanted_tokens: int) -> None:
    cache = cache_with_prefix()
    assert cache.evict(wanted_tokens) == wanted_tokens
    assert cached_tokens(cache) == len(PREFIX) - wanted_tokens
    cache.cache.sanity_check()
    cache.cache.tree_core.ledger.check()


def test_a_little_at_a_time_goes_in_large_parts() -> None:
    cache = cache_with_prefix()
    sizes = []
    while left := cached_tokens(cache):
        sizes.append(cache.evict(1))
        assert cached_tokens(cache) == left - sizes[-1]
    assert sizes[0] == len(PREFIX) // MOST_PARTS and sum(sizes) == len(PREFIX)
    assert all(size >= FEWEST_PART_TOKENS for size in sizes[:-1])
    assert cache.allocator.available_size() == POOL_TOKENS


def test_what_is_left_is_found_and_what_went_is_computed_again() -> None:
    cache = cache_with_prefix()
    cache.evict(150)
    assert cache.run([*PREFIX, 9], hint=hint(5)) == 250
    assert cached_tokens(cache) == len(PREFIX)
    standing, _ = cache.cache.tree_core.ledger.standing(
        cache.cache.tree_core.node_by_id(cache.match(PREFIX).last_device_node)
    )
    assert standing.name == "EXPECTED"


def test_of_two_the_further_one_gives_all_before_the_nearer_one_gives_any() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=POOL_TOKENS)
    other = [token + 5000 for token in PREFIX]
    for call in range(2):
        for agent, tokens in (("writer", PREFIX), ("critic", other)):
            told = Forecast(2 * call + (agent == "critic"), {"writer": 1, "critic": 3})
            cache.run([*tokens, call], hint=Hint("run", told, agent, "app", call))
    cache.evict(4)
    found = []
    for _ in range(6):
        cache.evict(100)
        found.append((cache.match(PREFIX).device_prefix_len, cache.match(other).device_prefix_len))
    assert found == [(400, 300), (400, 200), (400, 100), (400, 0), (300, 0), (200, 0)]


def test_recency_is_that_of_the_last_use() -> None:
    cache = cache_with_prefix()
    tree = cache.cache.tree_core
    before = tree.first_device_victim().last_access_time
    cache.evict(60)
    assert tree.first_device_victim().last_access_time == before


@pytest.mark.parametrize("case", ["no hints", "papers' order", "host tier"])
def test_elsewhere_leaves_go_whole(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if case == "papers' order":
        monkeypatch.setenv(VARIABLE, json.dumps({"order": "steps"}))
    cache = cache_with_prefix(
        is_hinted=case != "no hints", host_ratio=4.0 if case == "host tier" else None
    )
    assert cache.evict(60) == len(PREFIX)
    assert cached_tokens(cache) == 0


@pytest.mark.parametrize(("host_ratio", "evicted"), [(None, 60), (4.0, len(PREFIX))])
def test_that_is_so_after_a_flush_too(host_ratio: float | None, evicted: int) -> None:
    cache = StandaloneCache("kvflow", pool_tokens=POOL_TOKENS, host_ratio=host_ratio)
    cache.run(PREFIX)
    cache.cache.reset()
    cache.allocator.clear()
    for tail in range(2):
        cache.run([*PREFIX, tail], hint=hint(tail))
    cache.evict(2)
    assert cache.evict(60) == evicted


def test_pages_go_whole() -> None:
    cache = cache_with_prefix(page_size=16)
    left = cached_tokens(cache)
    assert left == 400 - 64  # an eighth, 50 tokens, in whole pages
    assert cache.evict(20) == 48
    assert cached_tokens(cache) == left - 48
