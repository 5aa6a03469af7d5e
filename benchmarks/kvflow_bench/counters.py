"""What a server has counted between two moments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvflow_bench.client import Client

PREFIX = "sglang:"
METRICS = (
    "evicted_tokens_total",
    "hicache_backup_tokens_total",
    "load_back_tokens_total",
    "load_back_bytes_total",
    "load_back_duration_seconds_sum",
)
KVFLOW = "kvflow/"

Counters = dict[str, float]


async def read(client: Client) -> Counters:
    """SGLang's metrics by name, and `kvflow/` names for what kvflow's first scheduler counts."""
    counters = parse_metrics(await client.metrics())
    return counters | parse_status(await client.status())


def parse_metrics(text: str) -> Counters:
    """The totals of the metrics that matter here, over all labels."""
    totals: Counters = {}
    for line in text.splitlines():
        labelled, _, value = line.rpartition(" ")
        name = labelled.partition("{")[0].removeprefix(PREFIX)
        if name in METRICS:
            totals[name] = totals.get(name, 0.0) + float(value)
    return totals


def parse_status(status: Mapping[str, Any]) -> Counters:
    """Every integer that the first scheduler reports."""
    (rank, *_) = status.get("ranks") or [{}]
    return {KVFLOW + name: count for name, count in rank.items() if type(count) is int}


def difference(before: Counters, after: Counters) -> Counters:
    """What was added; counters that were not there before began at 0."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def load_back_gb_per_s(counters: Counters) -> float | None:
    """How fast the host tier was read, by the server's own clock; None if it was not."""
    seconds = counters.get("load_back_duration_seconds_sum", 0.0)
    loaded_bytes = counters.get("load_back_bytes_total", 0.0)
    return loaded_bytes / seconds / 1e9 if seconds > 0 else None
