from __future__ import annotations

from kvflow_bench.counters import difference, load_back_gb_per_s, parse_metrics, parse_status

METRICS = """\
# HELP sglang:evicted_tokens_total tokens
sglang:evicted_tokens_total{rank="0"} 100.0
sglang:evicted_tokens_total{rank="1"} 20.0
sglang:load_back_duration_seconds_bucket{le="0.1"} 3.0
sglang:load_back_duration_seconds_sum{rank="0"} 0.5
sglang:load_back_bytes_total{rank="0"} 1e+09
sglang:num_running_reqs 3.0
"""


def test_metrics_are_summed_over_labels() -> None:
    assert parse_metrics(METRICS) == {
        "evicted_tokens_total": 120.0,
        "load_back_duration_seconds_sum": 0.5,
        "load_back_bytes_total": 1e9,
    }
    assert parse_metrics("") == {}


def test_every_integer_of_the_first_scheduler_counts() -> None:
    rank = {"prefetched_tokens": 5, "name": "x", "share": 0.5, "is_on": True}
    assert parse_status({"ranks": [rank, {"other": 1}]}) == {"kvflow/prefetched_tokens": 5}
    assert parse_status({}) == {}


def test_what_was_added_and_how_fast() -> None:
    assert difference({"a": 1.0, "gone": 2.0}, {"a": 4.0, "new": 5.0}) == {"a": 3.0, "new": 5.0}
    assert load_back_gb_per_s(parse_metrics(METRICS)) == 2.0
    assert load_back_gb_per_s({"load_back_duration_seconds_sum": 0.0}) is None
