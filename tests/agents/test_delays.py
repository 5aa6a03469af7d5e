"""Delays: what joins make of them, and the histogram that they are read from."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvflow_agents.delays import NOW, POINTS, Delay, earliest, latest, then
from kvflow_agents.histogram import LONGEST_MS, Histogram
from kvflow_agents.step_delays import delays_ahead
from kvflow_agents.step_graph import Join, StepGraph

TIMES = st.floats(0, 1e9, allow_nan=False)
DELAYS = st.lists(TIMES, min_size=POINTS, max_size=POINTS).map(
    lambda times: Delay(tuple(sorted(times)))
)
TWO_POINTS = Delay((0.0,) * 5 + (100.0,) * 5)


def exactly(ms: float) -> Delay:
    return Delay((ms,) * POINTS)


def histogram(*times_ms: float) -> Histogram:
    seen = Histogram()
    for ms in times_ms:
        seen.add(ms)
    return seen


def test_an_and_join_takes_the_maximum_and_an_or_join_the_minimum() -> None:
    assert latest([exactly(3), exactly(7), exactly(5)]) == exactly(7)
    assert earliest([exactly(3), exactly(7), exactly(5)]) == exactly(3)
    assert then(exactly(3), exactly(7)) == exactly(10)
    # Two coins: the earlier one is 0 in three quarters of the cases, 7 or 8 of ten points.
    assert latest([TWO_POINTS, TWO_POINTS]).points == (0.0,) * 2 + (100.0,) * 8
    assert earliest([TWO_POINTS, TWO_POINTS]).points == (0.0,) * 7 + (100.0,) * 3
    assert then(TWO_POINTS, TWO_POINTS).points == (0.0,) * 2 + (100.0,) * 5 + (200.0,) * 3


@given(st.lists(DELAYS, min_size=1, max_size=4))
def test_and_is_no_earlier_and_or_no_later_than_each(delays: list[Delay]) -> None:
    for delay in delays:
        for point, last, first in zip(
            delay.points, latest(delays).points, earliest(delays).points, strict=True
        ):
            assert first <= point <= last


@given(DELAYS, DELAYS)
def test_what_is_combined_is_a_delay_again_in_either_order(one: Delay, other: Delay) -> None:
    for combined, again in (
        (then(one, other), then(other, one)),
        (latest([one, other]), latest([other, one])),
        (earliest([one, other]), earliest([other, one])),
    ):
        assert combined == again
        assert list(combined.points) == sorted(combined.points)
        assert len(combined.points) == POINTS
    assert then(one, NOW) == one


@given(DELAYS, st.lists(st.floats(0, 1), min_size=2))
def test_quantiles_grow_with_their_share(delay: Delay, shares: list[float]) -> None:
    quantiles = [delay.quantile(share) for share in sorted(shares)]
    assert quantiles == sorted(quantiles)
    assert delay.points[0] <= quantiles[0] <= quantiles[-1] <= delay.points[-1]


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=50))
def test_a_histogram_reads_times_back_within_a_bin(times_ms: list[float]) -> None:
    delay = histogram(*times_ms).delay()
    assert list(delay.points) == sorted(delay.points)
    for point in delay.points:
        nearest = min(times_ms, key=lambda ms: abs(min(ms, LONGEST_MS) - point))
        assert point + 1 == pytest.approx(min(nearest, LONGEST_MS) + 1, rel=0.2)


def test_a_histogram_of_one_time_says_that_time() -> None:
    delay = histogram(*[1000.0] * 9).delay()
    assert all(point == pytest.approx(1000.0, rel=0.19) for point in delay.points)


def test_a_histogram_forgets_what_is_no_longer_so() -> None:
    seen = histogram(*[10.0] * 1000)
    for _ in range(100):
        seen.add(10_000.0)
    assert seen.delay().quantile(0.25) < 20
    for _ in range(300):
        seen.add(10_000.0)
    assert seen.delay().quantile(0.25) > 5_000


def test_a_histogram_stays_small_and_exact_for_ever() -> None:
    seen = Histogram()
    for number in range(20_000):
        seen.add(1.5 ** (number % 70))
    assert seen.evidence == pytest.approx(200, rel=0.01)
    assert len(seen.dump()) <= 140


@given(st.lists(st.floats(0, 1e12), max_size=50))
def test_a_histogram_comes_back_from_json(times_ms: list[float]) -> None:
    seen = histogram(*times_ms)
    again = Histogram.load(json.loads(json.dumps(seen.dump())))
    assert again.evidence == pytest.approx(seen.evidence)
    if times_ms:
        assert again.delay().points == pytest.approx(seen.delay().points)


@pytest.mark.parametrize(
    "dumped",
    [None, [], {"x": 1}, {"-1": 1}, {"1000": 1}, {"1": -1}, {"1": 0}, {"1": "nan"}, {"1": None}],
)
def test_what_is_no_histogram_is_refused(dumped: object) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError)):
        Histogram.load(dumped)


def edge(*sources: str, target: str) -> Join:
    return Join(frozenset(sources), target)


DIAMOND = StepGraph(
    [
        edge("a", target="b"),
        edge("a", target="c"),
        edge("b", "c", target="all"),
        edge("b", target="any"),
        edge("c", target="any"),
        edge("all", target="rare"),
    ]
)
TURNS = {"a": exactly(1), "b": exactly(10), "c": exactly(100)}


def test_delays_go_along_the_graph_through_both_joins() -> None:
    steps = DIAMOND.outlook(["a"]).steps
    due = delays_ahead(DIAMOND, steps, TURNS.get)
    # Nobody knows how long `all` takes, so nobody knows when `rare` begins.
    assert due == {"b": exactly(1), "c": exactly(1), "all": exactly(101), "any": exactly(11)}


def test_a_join_that_has_seen_a_source_waits_for_the_others() -> None:
    join = edge("b", "c", target="all")
    steps = DIAMOND.outlook(["b"], arrived={join: {"c"}}).steps
    due = delays_ahead(DIAMOND, steps, TURNS.get, arrived={join: {"c"}})
    assert due["all"] == exactly(10)


def test_what_has_finished_leads_on_at_once() -> None:
    steps = DIAMOND.outlook(["b"], finished=["c"]).steps
    due = delays_ahead(DIAMOND, steps, TURNS.get, finished=["c"])
    assert due["all"] == exactly(10)
    assert due["any"] == exactly(0)


def test_passive_nodes_take_no_time_and_may_go_round() -> None:
    graph = StepGraph(
        [
            edge("a", target="in"),
            edge("in", target="b"),
            edge("out", target="in"),
            edge("b", target="out"),
        ],
        passive=["in", "out"],
    )
    due = delays_ahead(graph, graph.outlook(["a"]).steps, TURNS.get)
    assert due == {"b": exactly(1)}


def test_a_long_line_is_cut_short_not_run_into_the_ground() -> None:
    names = [f"agent{number:05}" for number in range(5000)]
    graph = StepGraph(edge(one, target=two) for one, two in zip(names, names[1:], strict=False))
    due = delays_ahead(graph, graph.outlook(names[:1]).steps, lambda _: exactly(2))
    assert due[names[10]] == exactly(20)
    assert len(due) < 100
