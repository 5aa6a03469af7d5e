"""A short run of `benchmarks/policy_quality.py`: its counts do not depend on the machine."""

from __future__ import annotations

from itertools import takewhile

import pytest

from policy_quality import TRAFFIC as ALL_TRAFFIC
from policy_quality import Call, Notice, endless, events_of, measure, perfect

WRONG = ("stale", "shuffled", "reversed", "never", "now")


@pytest.fixture(scope="module")
def row() -> dict[str, int]:
    measured = measure("sequential", 600, 1, ["perfect", "learned", "absent", *WRONG])
    return {name: value for name, value in measured.items() if isinstance(value, int)}


def test_perfect_forecasts_are_near_the_optimum(row: dict[str, int]) -> None:
    assert row["optimum"] <= row["perfect"] <= 1.02 * row["optimum"]
    assert row["perfect"] < row["whole leaves"] <= row["perfect, whole leaves"]


def test_learned_ones_are_between_perfect_ones_and_none(row: dict[str, int]) -> None:
    assert row["perfect"] < row["learned"] < 0.9 * row["lru"]


def test_without_hints_it_is_recency(row: dict[str, int]) -> None:
    assert row["absent"] == row["lru"]


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_hints_compute_hardly_more_than_recency(row: dict[str, int], kind: str) -> None:
    assert row[kind] <= 1.02 * row["lru"]


@pytest.mark.parametrize("over_ends", [False, True])
def test_perfect_forecasts_are_true(over_ends: bool) -> None:
    events = events_of(ALL_TRAFFIC["tool gaps"], 200, seed=1)
    for index, told in enumerate(endless(events) if over_ends else perfect(events)):
        assert told is not None
        later = [
            each
            for each in events[index + 1 :]
            if isinstance(each, Call) and each.client == events[index].client
        ]
        client_events = (each for each in events[index:] if each.client == events[index].client)
        this_run = [*takewhile(lambda each: isinstance(each, Call), client_events)][1:]
        for agent, steps in told.steps.items():
            calls = [number for number, each in enumerate(later, 1) if each.agent == agent]
            is_said = calls and (over_ends or calls[0] <= len(this_run))
            assert steps == (calls[0] if is_said else None)
            if calls:
                due_s = later[calls[0] - 1].at_s - events[index].at_s
                assert told.due_ms[agent] == int(1000 * due_s)
    assert any(isinstance(event, Notice) for event in events)
