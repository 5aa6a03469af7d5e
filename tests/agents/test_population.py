"""What is told of a simulation's agents: what has changed, what may have been lost, no more."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvflow_agents.expectations import Expectations
from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import MAX_AGENTS, MAX_STEPS, decode_body
from kvflow_agents.population import REPEAT_TICKS, Population, batches, steps_of

DISTANCES = st.dictionaries(
    st.sampled_from("abcdef"), st.none() | st.floats(allow_nan=True, allow_infinity=True)
)


def test_steps_are_exact_where_it_matters_and_coarse_far_away() -> None:
    told = [steps_of(ticks) for ticks in range(14)]
    assert told == [0, 1, 2, 3, 4, 4, 6, 6, 8, 8, 8, 8, 12, 12]
    assert steps_of(99.9) == 96


@given(st.floats(0, 1e9))
def test_steps_come_early_by_less_than_a_third(distance: float) -> None:
    steps = steps_of(distance)
    assert steps is not None
    assert 0 <= steps <= distance
    assert min(math.floor(distance), MAX_STEPS) < 1.5 * steps + 1


@given(st.floats(allow_nan=True, allow_infinity=True) | st.none())
def test_any_distance_is_one_that_a_hint_can_carry(distance: float | None) -> None:
    decode_body({"v": 1, "workflow": "w", "seq": 1, "steps": {"a": steps_of(distance)}})


@pytest.mark.parametrize("distance", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_expected(distance: float | None) -> None:
    assert steps_of(distance) is None


def test_only_changes_are_told() -> None:
    population = Population()
    agents: dict[str, float | None] = {f"agent {number}": 9.0 for number in range(REPEAT_TICKS)}
    assert agents.keys() <= population.tick(agents).keys()
    changed = population.tick({**agents, "agent 7": 3.0, "agent 8": 8.5})
    assert changed.pop("agent 7") == 3
    assert len(changed) == 1  # whose turn it is again


def test_an_agent_of_whom_nothing_is_expected_needs_no_telling() -> None:
    population = Population()
    assert population.tick({"a": None, "b": math.nan, "c": math.inf}) == {}
    assert population.tick({}) == {}


def test_an_agent_that_has_left_is_told_as_null_and_then_forgotten() -> None:
    population = Population()
    population.tick({"a": 1.0, "b": 1.0})
    assert population.tick({"b": 1.0})["a"] is None
    for _ in range(3 * REPEAT_TICKS):
        population.tick({"b": 1.0})
    assert population.told == {"b": 1}
    assert population.tick({"a": 1.0, "b": 1.0})["a"] == 1


def test_a_call_that_nobody_foresaw_is_news_afterwards() -> None:
    population = Population()
    population.tick({"a": 8.0, "b": 9.0})
    population.tell("a", 0)
    assert population.tick({"a": 8.0, "b": 9.0})["a"] == 8


@given(ticks=st.lists(DISTANCES, max_size=20), lost=st.lists(st.booleans(), max_size=20))
@settings(max_examples=200)
def test_a_server_knows_every_agent_again_whatever_was_lost(
    ticks: list[dict[str, float | None]], lost: list[bool]
) -> None:
    population, server = Population(), Expectations()
    last: dict[str, float | None] = {}
    for seq, last in enumerate(ticks):
        told = population.tick(last)
        if seq >= len(lost) or not lost[seq]:
            server.take_in(Forecast(seq, told, changes=True))
    for seq in range(REPEAT_TICKS):
        server.take_in(Forecast(100 + seq, population.tick(last), changes=True))
    knows = {agent: steps for agent, steps in server.steps.items() if steps is not None}
    actual = {agent: steps_of(distance) for agent, distance in last.items()}
    assert knows == {agent: steps for agent, steps in actual.items() if steps is not None}


def test_batches_are_as_few_as_messages_hold() -> None:
    steps = {f"agent {number}": number for number in range(10_000)}
    sent = list(batches(steps))
    assert [len(batch) for batch in sent] == [MAX_AGENTS, MAX_AGENTS, 10_000 - 2 * MAX_AGENTS]
    assert {agent: count for batch in sent for agent, count in batch.items()} == steps
    assert list(batches({})) == []
