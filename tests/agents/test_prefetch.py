"""What is loaded ahead, in which order and how much: pure, on claims without a tree."""

from __future__ import annotations

from typing import Any

from kvflow_agents.claims import Claim
from kvflow_agents.eviction import Standing, may_displace, rank
from kvflow_agents.prefetch import LOADS_IN_TIME, PrefetchQueue, Span


def claim(steps: int | None, tokens: int = 100) -> Claim[Any]:
    return Claim(key=range(tokens), steps=steps, distance=steps, node=None, depth_tokens=tokens)  # type: ignore[arg-type]


def queue(
    horizon_steps: int = 1, most_agents: int = 4, most_tokens: int = 64
) -> PrefetchQueue[Any]:
    return PrefetchQueue(
        horizon_steps=horizon_steps, most_agents=most_agents, most_tokens=most_tokens
    )


def everything(one: Claim[Any]) -> Span:
    return 0, one.depth_tokens


def nothing(one: Claim[Any]) -> Span:
    return one.depth_tokens, one.depth_tokens


def order(made: PrefetchQueue[Any]) -> list[Claim[Any]]:
    """The claims in the order in which they would be loaded, each loaded at once."""
    loaded: list[Claim[Any]] = []

    def missing(one: Claim[Any]) -> Span:
        return nothing(one) if one in loaded else everything(one)

    while loads := made.plan(missing):
        loaded.append(loads[0].claim)
    return loaded


def test_the_nearest_agents_come_first_then_who_was_heard_first() -> None:
    made = queue()
    far, near, also_near = claim(1), claim(0), claim(0)
    made.want("one", [far, near])
    made.want("two", [also_near])
    assert order(made) == [near, also_near, far]


def test_only_agents_within_the_horizon_are_wanted() -> None:
    made = queue(horizon_steps=2)
    within = claim(2)
    made.want("w", [claim(3), within, claim(None), claim(1_000_000)])
    assert order(made) == [within]
    assert [made.covers(steps) for steps in (None, 0, 2, 3)] == [False, True, True, False]


def test_of_many_branches_the_nearest_few_are_loaded() -> None:
    made = queue(most_agents=3)
    branches = [claim(1) for _ in range(10)]
    planned = claim(0)
    made.want("w", [*branches, planned])
    assert order(made) == [planned, *branches[:2]]


def test_a_load_is_the_first_part_of_what_is_missing() -> None:
    made = queue(most_tokens=64)
    wanted = claim(1)
    made.want("w", [wanted])
    for span, expected in [((0, 100), (0, 64)), ((30, 100), (30, 94)), ((90, 100), (90, 100))]:
        (load,) = made.plan(lambda one, span=span: span)  # type: ignore[misc]
        assert ((load.start, load.stop), load.distance) == (expected, 1)


def test_small_loads_go_in_one_copy_up_to_its_size() -> None:
    made = queue(most_tokens=120)
    claims = [claim(1, tokens=50), claim(0, tokens=50), claim(1, tokens=50), claim(1, tokens=50)]
    made.want("w", claims)
    loads = made.plan(everything)
    assert [load.claim for load in loads] == [claims[1], claims[0], claims[2]]
    assert [load.stop for load in loads] == [50, 50, 20]


def test_what_is_on_the_device_is_not_looked_at_again() -> None:
    made = queue()
    made.want("w", [claim(0), claim(1)])
    assert not made.plan(nothing)
    looked_at = []
    assert not made.plan(lambda one: looked_at.append(one) or everything(one))  # type: ignore[func-returns-value]
    assert not looked_at
    assert made.note_lost(0)
    assert len(order(made)) == 2


def test_what_is_lost_further_away_than_anything_wanted_is_nobodys() -> None:
    made = queue()
    made.want("w", [claim(1)])
    assert not made.plan(nothing)
    assert not made.note_lost(2)
    assert not made.note_lost(None)
    assert made.note_lost(1)


def test_a_new_forecast_replaces_the_last() -> None:
    made = queue()
    old, new = claim(0), claim(0)
    made.want("w", [old])
    made.want("w", [new])
    assert made.note_lost(0)
    assert order(made) == [new]


def test_an_ended_workflow_wants_nothing() -> None:
    made = queue()
    other = claim(1)
    made.want("ended", [claim(0)])
    made.want("other", [other])
    made.forget("ended")
    made.forget("never heard of")
    assert made.note_lost(0)
    assert order(made) == [other]
    made.clear()
    assert not made.note_lost(0)
    assert order(made) == []


def test_the_horizon_is_one_step_further_while_loads_come_late() -> None:
    made = queue(horizon_steps=1)
    further = claim(2)

    def is_wanted() -> bool:
        made.want("w", [further])
        return order(made) == [further]

    assert not is_wanted()
    for _ in range(3):
        made.note_late()
        assert is_wanted()
    assert not made.covers(3)
    for _ in range(LOADS_IN_TIME - 1):
        made.note_in_time()
    assert is_wanted()
    made.note_in_time()
    assert not is_wanted()


def test_only_what_is_needed_later_gives_way() -> None:
    def expected(steps: int) -> Any:
        return rank(Standing.EXPECTED, steps, 5.0, 1)

    assert [may_displace(expected(steps), 1) for steps in (0, 1, 2)] == [False, False, True]
    assert may_displace(rank(Standing.ORDINARY, None, 5.0, 1), 0)
    assert may_displace(rank(Standing.SPENT, None, 5.0, 1), 0)
