"""Invocation distances: ScaleSim's three classes, their minimum, and what is not a number."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kvflow_agents.distance import (
    NEVER,
    ActionTime,
    Approach,
    Distance,
    Hops,
    Interaction,
    Nearest,
    Rendezvous,
    measure,
)
from kvflow_agents.errors import ConfigurationError
from kvflow_agents.failsafe import Failsafe

NOT_FINITE = [math.nan, math.inf, -math.inf]
AGENTS = ("a", "b", "c", "d")
ANYTHING = st.floats(allow_nan=True, allow_infinity=True)
FIGURES = st.dictionaries(st.sampled_from(AGENTS), ANYTHING, max_size=4)
POINTS = st.dictionaries(st.sampled_from(AGENTS), st.lists(ANYTHING, max_size=3), max_size=4)


def everybody(_: str) -> tuple[str, ...]:
    return AGENTS


@pytest.mark.parametrize(
    ("remaining", "tick", "ticks"),
    [(0, 1, 0), (-3, 1, 0), (1, 1, 0), (2, 1, 1), (10, 5, 1), (11, 5, 2), (0.5, 1, 0), (1.5, 1, 1)],
)
def test_an_action_that_ends_within_the_tick_is_at_zero(
    remaining: float, tick: float, ticks: float
) -> None:
    assert ActionTime({"a": remaining}, tick).ticks("a") == ticks


@given(st.integers(1, 10_000), st.integers(1, 100))
def test_integers_are_rounded_as_in_scalesim(remaining: int, tick: int) -> None:
    assert ActionTime({"a": remaining}, tick).ticks("a") == (remaining - 1) // tick


@pytest.mark.parametrize("remaining", [*NOT_FINITE, None])
def test_an_action_of_unknown_length_is_unknown(remaining: float | None) -> None:
    assert ActionTime({"a": remaining}).ticks("a") is None


def test_agents_meet_where_their_speeds_bring_them() -> None:
    positions = {"a": (0.0, 0.0), "b": (3.0, 4.0), "c": (100.0, 0.0), "d": (0.0, 0.5)}
    approach = Approach(positions, {"a": 1.0, "b": 1.5, "c": 0.0, "d": 0.0}, reach=0.5)
    assert approach("a", "b") == 4.5 / 2.5
    assert approach("a", "d") == 0.0
    assert approach("c", "d") == NEVER
    interaction = Interaction(approach, everybody)
    assert interaction.ticks("b") == 2
    assert interaction.ticks("a") == 0


def test_an_agent_alone_meets_nobody() -> None:
    approach = Approach({"a": (0.0, 0.0)}, {"a": 1.0})
    assert Interaction(approach, lambda _: ["a"]).ticks("a") == NEVER


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_positions_and_speeds_that_are_no_numbers_are_unknown(bad: float) -> None:
    positions = {"a": (0.0, bad), "b": (1.0, 1.0), "c": (2.0, 2.0)}
    approach = Approach(positions, {"a": 1.0, "b": 1.0, "c": bad})
    assert approach("a", "b") is None
    assert approach("b", "c") is None
    assert Interaction(approach, everybody).ticks("b") is None


def test_agents_that_vanished_or_live_in_another_space_are_unknown() -> None:
    approach = Approach({"a": (0.0, 0.0), "b": (1.0,)}, {"a": 1.0, "b": 1.0})
    assert approach("a", "gone") is None
    assert approach("a", "b") is None
    assert Interaction(approach, lambda _: ["gone"]).ticks("a") is None
    assert ActionTime({}).ticks("gone") is None
    assert Rendezvous({}, {}, {})("gone", "a") is None
    assert Hops({}).ticks("gone") is None


def test_agents_bound_for_one_place_meet_when_the_later_has_arrived() -> None:
    places = {"a": "inn", "b": "inn", "c": "mill", "d": "inn"}
    speeds = {"a": 2.0, "b": 4.0, "c": 1.0, "d": 0.0}
    meets_in = Rendezvous(places, {"a": 10.0, "b": 12.0, "c": 1.0, "d": 5.0}, speeds)
    assert meets_in("a", "b") == 5
    assert meets_in("b", "a") == 5
    assert meets_in("a", "c") == NEVER
    assert meets_in("a", "d") == NEVER  # it has a way to go and does not move
    assert Interaction(meets_in, everybody).ticks("b") == 5


def test_whoever_rests_still_has_to_get_there() -> None:
    meets_in = Approach({"a": (0.0,), "b": (100.0,)}, {"a": 1.0, "b": 0.0})
    interaction = Interaction(meets_in, everybody, rests={"a": 2.0})
    assert interaction.ticks("a") == 100
    assert Interaction(meets_in, everybody, rests={"a": 150.0}).ticks("a") == 150
    assert Interaction(meets_in, everybody, rests={"a": math.nan}).ticks("a") is None


def test_hops_count_from_the_nearest_active_agent() -> None:
    hops = Hops({"a": ["b"], "b": ["c", "d"], "c": ["a"], "x": ["a"]})
    assert hops.ticks("a") == NEVER
    hops.activate(["a"])
    assert [hops.ticks(agent) for agent in "abcdx"] == [0, 1, 2, 2, NEVER]
    hops.activate(["c", "d"])
    assert [hops.ticks(agent) for agent in "abcdx"] == [1, 2, 0, 0, NEVER]
    hops.activate([])
    assert hops.ticks("a") == NEVER
    assert hops.ticks("stranger") is None


class Own:
    """A simulation's own distance."""

    def ticks(self, agent: str) -> float | None:
        return {"a": 7.0, "b": NEVER}.get(agent)


def test_the_nearest_of_several_counts_and_the_unknown_does_not() -> None:
    nearest = Nearest(ActionTime({"a": 3.0, "c": 9.0}), Own())
    assert [nearest.ticks(agent) for agent in "abcd"] == [2, NEVER, 8, None]


def test_an_interaction_is_the_nearer_of_action_and_meeting() -> None:
    meeting = Interaction(Approach({"a": (0.0,), "b": (9.0,)}, {"a": 1.0, "b": 2.0}), everybody)
    assert Nearest(ActionTime({"a": 3.0}), meeting).ticks("a") == 2
    assert Nearest(ActionTime({"a": 8.0}), meeting).ticks("a") == 3


def test_what_fails_is_unknown() -> None:
    class Broken:
        def ticks(self, agent: str) -> float | None:
            return 1.0 / len(agent[1:])

    failsafe = Failsafe("a test")
    assert measure(Broken(), ["a", "bb"], failsafe) == {"a": None, "bb": 1.0}
    assert failsafe.errors == 1


@pytest.mark.parametrize("bad", [0, -1, *NOT_FINITE])
def test_a_tick_must_have_a_length(bad: float) -> None:
    with pytest.raises(ConfigurationError, match="tick"):
        ActionTime({}, bad)
    with pytest.raises(ConfigurationError, match="tick"):
        Interaction(lambda agent, other: None, everybody, tick=bad)


@pytest.mark.parametrize("bad", [-1, *NOT_FINITE])
def test_reach_must_not_be_negative(bad: float) -> None:
    with pytest.raises(ConfigurationError, match="reach"):
        Approach({}, {}, reach=bad)


def test_nothing_has_no_nearest() -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        Nearest()


@given(
    remaining=FIGURES,
    positions=POINTS,
    speeds=FIGURES,
    ways=FIGURES,
    rests=FIGURES,
    tick=st.floats(0.001, 1000),
)
def test_whatever_a_simulation_holds_a_distance_comes_out(
    remaining: dict[str, float],
    positions: dict[str, list[float]],
    speeds: dict[str, float],
    ways: dict[str, float],
    rests: dict[str, float],
    tick: float,
) -> None:
    places = {agent: round(len(agent)) for agent in ways}
    distances: list[Distance] = [
        ActionTime(remaining, tick),
        Interaction(Approach(positions, speeds), everybody, rests, tick),
        Interaction(Rendezvous(places, ways, speeds), everybody, rests, tick),
    ]
    for distance in [*distances, Nearest(*distances)]:
        for agent in (*AGENTS, "gone"):
            ticks = distance.ticks(agent)
            assert ticks is None or ticks >= 0


@given(st.floats(0.01, 1e6), st.floats(0.01, 1e3), st.floats(0.01, 1e3))
def test_closer_or_faster_agents_meet_no_later(way: float, speed: float, other: float) -> None:
    assume(math.isfinite(way / speed))

    def ticks(way: float, speed: float) -> float:
        meets_in = Approach({"a": (0.0,), "b": (way,)}, {"a": speed, "b": other})
        found = Interaction(meets_in, everybody).ticks("a")
        assert found is not None
        return found

    assert ticks(way, speed) <= ticks(2 * way, speed)
    assert ticks(way, 2 * speed) <= ticks(way, speed)
