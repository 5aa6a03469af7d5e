"""What is published of the cache's counts: when, under which labels, and that sums stay right."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from kvflow_agents.forecast import Forecast
from kvflow_agents.gathering import Gathering
from kvflow_agents.hints import Hint
from kvflow_sglang.metrics import LAST_PASSES, PASSES, Metrics
from kvflow_sglang.standalone import StandaloneCache

PREFIX = list(range(1000, 1100))
LABELS = {"cache_type": "kvflow"}


@pytest.fixture
def cache() -> StandaloneCache:
    return StandaloneCache("kvflow", pool_tokens=1000, host_ratio=4.0)


@pytest.fixture
def metrics(cache: StandaloneCache) -> Iterator[Metrics]:
    before = set(REGISTRY._collector_to_names)
    yield Metrics(cache.cache, LABELS)
    for made in set(REGISTRY._collector_to_names) - before:
        REGISTRY.unregister(made)


def call(cache: StandaloneCache, seq: int, agent: str = "a") -> None:
    told = Forecast(seq, {"a": 1, "b": 2})
    hint = Hint("a <b>workflow</b>", told, agent=agent, at_ms=cache.requests)
    cache.run([*PREFIX, seq], [7, 8], hint=hint)


def value(name: str, **labels: str) -> float | None:
    found: float | None = REGISTRY.get_sample_value(f"sglang:kvflow_{name}", {**LABELS, **labels})
    return found


def test_calls_are_published_by_tier_and_outcome(cache: StandaloneCache, metrics: Metrics) -> None:
    for seq in range(3):
        call(cache, seq)
    call(cache, 1)
    metrics.publish()
    assert value("hints_total", outcome="accepted") == 3
    assert value("hints_total", outcome="stale") == 1
    assert value("hinted_calls_total") == 4
    assert value("hinted_prompt_tokens_total") == 4 * 101
    # The fourth call is the second word for word: all but the token to compute is cached.
    assert value("hinted_cached_tokens_total", tier="device") == 3 * 100
    assert value("hinted_cached_tokens_total", tier="host") == 0
    assert value("expected_tokens", tier="device") == 100
    assert (value("workflows"), value("agents")) == (1, 1)


def test_publishing_again_adds_nothing(cache: StandaloneCache, metrics: Metrics) -> None:
    call(cache, 0)
    for _ in range(3):
        metrics.publish()
    assert value("hinted_calls_total") == 1
    call(cache, 1)
    metrics.publish()
    assert value("hinted_calls_total") == 2


def test_a_source_that_begins_anew_never_takes_back(
    cache: StandaloneCache, metrics: Metrics
) -> None:
    inferred = cache.cache.inferred.inference
    inferred.abstained = 5
    metrics.publish()
    inferred.abstained = 2
    metrics.publish()
    assert value("inferred_abstained_total") == 7


def test_evictions_are_published_by_standing(cache: StandaloneCache, metrics: Metrics) -> None:
    call(cache, 0)
    cache.run(range(5000, 5050))
    evicted = cache.evict(1000)
    metrics.publish()
    counted = [
        value("evicted_tokens_total", tier="device", standing=standing) or 0
        for standing in ("spent", "ordinary", "expected")
    ]
    assert sum(counted) == evicted > 0
    assert counted[0] == 2


def test_a_busy_scheduler_publishes_every_few_passes(
    cache: StandaloneCache, metrics: Metrics
) -> None:
    call(cache, 0)
    for _ in range(PASSES - 1):
        metrics.step(is_idle=False)
    assert value("hinted_calls_total") is None
    metrics.step(is_idle=False)
    assert value("hinted_calls_total") == 1


def test_a_scheduler_that_falls_idle_publishes_at_once(
    cache: StandaloneCache, metrics: Metrics
) -> None:
    call(cache, 0)
    metrics.step(is_idle=False)
    metrics.step(is_idle=True)
    assert value("hinted_calls_total") == 1
    for _ in range(LAST_PASSES):
        metrics.step(is_idle=True)
    cache.cache.hear(Hint("other", Forecast(0, {"a": 1})))
    metrics.step(is_idle=True)
    assert value("workflows") == 2


def test_no_label_has_a_name_of_a_client(cache: StandaloneCache, metrics: Metrics) -> None:
    call(cache, 0, agent="<script>")
    metrics.publish()
    values = {
        each
        for metric in REGISTRY.collect()
        if metric.name.startswith("sglang:kvflow_")
        for sample in metric.samples
        for each in sample.labels.values()
    }
    assert values <= {"kvflow", "accepted", "device", "host", "right", "wrong"} | {
        *("spent", "ordinary", "expected")
    }


def test_a_guard_that_trips_is_published_and_counted_for_good(
    cache: StandaloneCache, metrics: Metrics
) -> None:
    tripped, trips = "guard_tripped", "guard_trips_total"
    metrics.publish()
    assert (value(tripped), value(trips)) == (0, 0)
    cache.cache.tenants.anonymous.guard.heeds, cache.cache.tenants.anonymous.guard.trips = False, 2
    metrics.publish()
    assert (value(tripped), value(trips)) == (1, 2)
    cache.cache.reset()
    cache.cache.tenants.anonymous.guard.trips = 1
    metrics.publish()
    assert (value(tripped), value(trips)) == (0, 3)


def test_gathering_is_published_where_there_is_any(
    cache: StandaloneCache, metrics: Metrics
) -> None:
    names = ("gathered_requests_total", "gather_misses_total")
    metrics.publish()
    assert [value(name) for name in names] == [None, None]
    gathering = cache.cache.gathering = Gathering()
    for _ in range(3):
        for workflow in ("one", "other"):
            gathering.arrived(workflow)
            gathering.holds(1)
        gathering.began()
        for workflow in ("one", "other"):
            gathering.answered(workflow)
    counts = gathering.counts()
    assert counts["gathered_requests"]
    gathering.arrived("one")
    while gathering.holds(1):
        pass
    metrics.publish()
    assert [value(name) for name in names] == [counts["gathered_requests"], 1]
