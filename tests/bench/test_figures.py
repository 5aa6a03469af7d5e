from __future__ import annotations

from typing import Any

import pytest

from kvflow_bench.figures import (
    Comparison,
    Spread,
    by_workload,
    count_different,
    figures_of,
    percentile,
    spread,
)


def run(arm: str, repeat: int, latency_ms: float, **more: Any) -> dict[str, Any]:
    return {
        "workload": {"name": "single", "parameters": {"agents": 2}},
        "arm": arm,
        "repeat": repeat,
        "figures": {"mean_latency_ms": latency_ms},
        "counters": {"evicted_tokens_total": 10.0 * repeat},
        "calls": {"output_hash": ["aa", "bb"]},
        **more,
    }


def test_percentiles_lie_between_the_closest_ranks() -> None:
    values = [40.0, 10.0, 30.0, 20.0]
    assert [percentile(values, each) for each in (0, 50, 95, 100)] == [10, 25, 38.5, 40]
    assert percentile([7.0], 99) == 7
    with pytest.raises(ValueError):
        percentile([], 50)


def test_the_figures_of_a_run() -> None:
    calls: dict[str, list[Any]] = {
        "latency_ms": [100.0, 300.0],
        "ttft_ms": [10.0, 30.0],
        "inter_token_ms": [None, 5.0],
        "prompt_tokens": [50, 60],
        "device_tokens": [40, 0],
        "host_tokens": [0, 20],
        "output_tokens": [1, 3],
    }
    assert figures_of(calls, 2.0) == {
        "calls": 2,
        "elapsed_s": 2.0,
        "mean_latency_ms": 200.0,
        "p50_latency_ms": 200.0,
        "p95_latency_ms": 290.0,
        "p99_latency_ms": 298.0,
        "mean_ttft_ms": 20.0,
        "p50_ttft_ms": 20.0,
        "p95_ttft_ms": 29.0,
        "p99_ttft_ms": pytest.approx(29.8),
        "mean_inter_token_ms": 5.0,
        "prompt_tokens": 110,
        "device_tokens": 40,
        "host_tokens": 20,
        "output_tokens": 4,
        "calls_per_s": 1.0,
        "output_tokens_per_s": 2.0,
    }


def test_ratios_pair_the_repeats() -> None:
    runs = [run("kvflow", 0, 110), run("ceiling", 0, 100), run("ceiling", 1, 50)]
    comparison = Comparison([*runs, run("kvflow", 1, 60), run("lru", 2, 500)])
    assert comparison.arms == ["kvflow", "ceiling", "lru"]
    assert comparison.ratio("kvflow", "ceiling") == Spread(1.15, 1.1, 1.2, 2)
    assert comparison.ratio("kvflow", "hicache") is None
    assert comparison.of("ceiling", "mean_latency_ms") == Spread(75.0, 50, 100, 2)
    assert comparison.counted("kvflow", "evicted_tokens_total") == Spread(5.0, 0, 10, 2)
    # Never side by side: over the other's median, and marked.
    unpaired = Spread(500 / 75, 500 / 75, 500 / 75, 1, is_paired=False)
    assert comparison.ratio("lru", "ceiling") == unpaired


def test_repeats_of_different_sessions_are_no_pairs() -> None:
    comparison = Comparison([run("kvflow", 0, 110), run("ceiling", 0, 100, session=1)])
    ratio = comparison.ratio("kvflow", "ceiling")
    assert ratio is not None and not ratio.is_paired
    assert comparison.different_outputs("kvflow", "ceiling") is None


def test_different_outputs_are_counted() -> None:
    other = {"output_hash": ["aa", "cc"]}
    runs = [run("hicache", 0, 1), run("hicache", 1, 1), run("kvflow", 0, 1)]
    comparison = Comparison([*runs, run("kvflow", 1, 1, calls=other)])
    assert comparison.different_outputs("kvflow", "hicache") == (1, 4)
    assert comparison.different_outputs("hicache", "hicache") is None
    assert comparison.changed_outputs("kvflow") == (1, 2)
    assert comparison.changed_outputs("hicache") == (0, 2)
    assert Comparison(runs[:1]).changed_outputs("hicache") is None
    assert count_different(["a", "b", "c"], ["a", "x"]) == 2


def test_failed_runs_and_other_sizes_are_kept_apart() -> None:
    failed = {**run("lru", 0, 1), "error": "gone"}
    del failed["figures"]
    larger = run("kvflow", 0, 1, workload={"name": "single", "parameters": {"agents": 9}})
    groups = by_workload([run("kvflow", 0, 1), failed, larger])
    assert {name: group.arms for name, group in groups.items()} == {
        "single": ["kvflow"],
        "single (2)": ["kvflow"],
    }


def test_nothing_has_no_spread() -> None:
    assert spread([None]) is None
    assert spread([None, 3.0]) == Spread(3.0, 3.0, 3.0, 1)
