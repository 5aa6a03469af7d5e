"""What the cache counts, as Prometheus metrics of SGLang's own endpoint (`docs/metrics.md`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

# So often at most while requests run; SGLang logs decoding in the same rhythm.
PASSES = 40
# The last results come in up to so many passes after the last batch.
LAST_PASSES = 3

Values = Mapping[tuple[str, ...], int]
"""By the values of the labels."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, and where its values come from; a counter's only grow while its source lives."""

    name: str
    kind: Literal["counter", "gauge"]
    about: str
    read: Callable[[Any], Values]
    """From the cache. The values of a label are few and the server's own, never a client's."""
    labels: tuple[str, ...] = ()


def _only(read: Callable[[Any], int]) -> Callable[[Any], Values]:
    return lambda cache: {(): read(cache)}


def _total(name: str, about: str, source: str) -> Metric:
    """Of all hinted calls since the start."""
    read = _only(lambda cache: getattr(cache.tenants.totals, source))
    return Metric(f"sglang:kvflow_{name}_total", "counter", about, read)


def _prefetch(name: str, about: str, source: str) -> Metric:
    def read(cache: Any) -> Values:
        return {} if cache.prefetcher is None else {(): cache.prefetcher.counts[source]}

    return Metric(f"sglang:kvflow_{name}_total", "counter", about, read)


def _gathering(name: str, about: str, source: str) -> Metric:
    def read(cache: Any) -> Values:
        return {} if cache.gathering is None else {(): cache.gathering.counts()[source]}

    return Metric(f"sglang:kvflow_{name}_total", "counter", about, read)


def _inferred(name: str, about: str, source: str) -> Metric:
    def read(cache: Any) -> Values:
        return {} if cache.inferred is None else {(): getattr(cache.inferred.inference, source)}

    return Metric(f"sglang:kvflow_{name}_total", "counter", about, read)


def _foresight(name: str, about: str, source: str) -> Metric:
    read = _only(lambda cache: getattr(cache.tenants, source))
    return Metric(f"sglang:kvflow_{name}", "gauge", about, read)


def _hints(cache: Any) -> Values:
    return {(outcome,): count for outcome, count in cache.outcomes.items()}


def _cached(cache: Any) -> Values:
    totals = cache.tenants.totals
    return {("device",): totals.device_tokens, ("host",): totals.host_tokens}


def _forecasts(cache: Any) -> Values:
    totals = cache.tenants.totals
    return {("right",): totals.forecast_right, ("wrong",): totals.forecast_wrong}


def _evicted(cache: Any) -> Values:
    counted = cache.evicted_tokens.items()
    return {(tier, standing.name.lower()): tokens for (tier, standing), tokens in counted}


def _expected(cache: Any) -> Values:
    tokens = cache.tree_core.expected.total()
    return {("device",): tokens.device, ("host",): tokens.host}


METRICS: tuple[Metric, ...] = (
    Metric(
        "sglang:kvflow_hints_total",
        "counter",
        "Hints that came, with a request or without, by what became of them.",
        _hints,
        ("outcome",),
    ),
    _total("hinted_calls", "Hinted requests that were admitted.", "calls"),
    _total("distrusted_calls", "Those whose forecasts did not count.", "distrusted"),
    _total("clipped_calls", "Those of tenants with more than their expected share.", "clipped"),
    _total("hinted_prompt_tokens", "Prompt tokens of hinted requests.", "prompt_tokens"),
    Metric(
        "sglang:kvflow_hinted_cached_tokens_total",
        "counter",
        "Those found in the cache, by tier; prefetched ones count as the device's.",
        _cached,
        ("tier",),
    ),
    _total("hinted_prefetched_tokens", "Those found because of prefetch.", "prefetched_tokens"),
    _total(
        "hinted_lost_tokens", "Those evicted from every tier and computed again.", "lost_tokens"
    ),
    Metric(
        "sglang:kvflow_forecasts_total",
        "counter",
        "Hinted requests whose agent was forecast, by whether as one of the next.",
        _forecasts,
        ("result",),
    ),
    _prefetch("prefetched_tokens", "Tokens loaded ahead of requests.", "prefetched_tokens"),
    _prefetch("prefetch_used_tokens", "Those that a request read.", "prefetch_used_tokens"),
    _prefetch("prefetch_late_tokens", "Those a request waited for.", "prefetch_late_tokens"),
    _prefetch("prefetch_wasted_tokens", "Those evicted unread.", "prefetch_wasted_tokens"),
    _prefetch("early_load_tokens", "Tokens loaded for waiting requests.", "early_load_tokens"),
    _prefetch("held_requests", "Waits of requests for a load.", "waits_for_loads"),
    _gathering("gathered_requests", "Requests that others waited for.", "gathered_requests"),
    _gathering("gather_misses", "Workflows waited for in vain.", "gather_misses"),
    Metric(
        "sglang:kvflow_evicted_tokens_total",
        "counter",
        "Tokens evicted, by tier and by why they had been kept.",
        _evicted,
        ("tier", "standing"),
    ),
    _inferred("inferred_calls", "Requests without a hint that were recognised.", "inferred"),
    _inferred("inferred_abstained", "Requests without a hint left alone.", "abstained"),
    Metric(
        "sglang:kvflow_expected_tokens",
        "gauge",
        "Tokens kept for agents with known steps-to-execution, by tier.",
        _expected,
        ("tier",),
    ),
    _foresight("workflows", "Workflows that are known and have not ended.", "workflows"),
    _foresight("agents", "Agents whose prefix is remembered.", "agents"),
    _foresight("distrusted_workflows", "Workflows disregarded for wrong forecasts.", "distrusted"),
    _foresight("guard_tripped", "Tenants disregarded for finding less than LRU.", "disregarded"),
    Metric(
        "sglang:kvflow_guard_trips_total",
        "counter",
        "How often forecasts were found to find less than LRU.",
        _only(lambda cache: cache.tenants.guard_trips),
    ),
)


class Metrics:
    """Publishes what has changed, every few passes of the scheduler; no clock."""

    def __init__(self, cache: Any, labels: Mapping[str, str]) -> None:
        """`labels`: those of SGLang's own metrics of the cache, with their values."""
        # It looks for the folder that processes share when it is imported.
        from prometheus_client import Counter, Gauge

        self._cache = cache
        self._labels = dict(labels)
        self._published: dict[tuple[str, tuple[str, ...]], int] = {}
        self._hints = 0
        self._passes = 0
        self._idle_passes = 0
        self._made: dict[str, Any] = {}
        for metric in METRICS:
            names = [*self._labels, *metric.labels]
            self._made[metric.name] = (
                Counter(metric.name, metric.about, names)
                if metric.kind == "counter"
                else Gauge(metric.name, metric.about, names, multiprocess_mode="mostrecent")
            )

    def step(self, *, is_idle: bool) -> None:
        """Once a scheduler pass; `is_idle`: nothing runs and nothing waits."""
        self._passes += 1
        self._idle_passes = self._idle_passes + 1 if is_idle else 0
        if self._passes >= PASSES or (is_idle and self._has_news()):
            self.publish()

    def publish(self) -> None:
        """Bring what is published up to date."""
        self._passes = 0
        self._hints = self._cache.outcomes.total()
        for metric in METRICS:
            for values, now in metric.read(self._cache).items():
                self._put(metric, values, now)

    def _has_news(self) -> bool:
        # Forecasts come without a request too, and a scheduler that sleeps makes few passes.
        hints: int = self._cache.outcomes.total()
        return self._idle_passes <= LAST_PASSES or hints != self._hints

    def _put(self, metric: Metric, values: tuple[str, ...], now: int) -> None:
        at = metric.name, values
        before = self._published.get(at)
        if now == before:
            return
        self._published[at] = now
        made = self._made[metric.name].labels(
            **self._labels, **dict(zip(metric.labels, values, strict=True))
        )
        if metric.kind == "gauge":
            made.set(now)
        elif before is None or now < before:
            made.inc(now)  # its source began anew
        else:
            made.inc(now - before)
