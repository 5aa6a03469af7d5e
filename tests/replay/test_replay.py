"""Traces under the policies, on cases that can be worked out by hand and on random traffic."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvflow_agents.errors import ConfigurationError
from kvflow_agents.prefix import Tokens
from kvflow_replay.caches import PolicyCache
from kvflow_replay.calls import Call, End, Event
from kvflow_replay.forecasts import Forecaster, RecordedForecaster
from kvflow_replay.optimum import NextUses, Optimum
from kvflow_replay.replay import (
    DEFAULT_POLICIES,
    Outcome,
    Replay,
    Sizes,
    Sums,
    losses,
    replay,
    sizes_for,
)
from kvflow_simulate.requests import CallId, Request
from kvflow_simulate.sides import SIDES

BLOCK = 16
FIXED_BLOCKS = 8


def call(at_s: float, blocks: list[int], **more: object) -> Call:
    return Call(at_s, len(blocks) * BLOCK, 0, Tokens("q", blocks), **more)  # type: ignore[arg-type]


def cycle(agents: int, rounds: int, *, named: bool = True) -> list[Event]:
    """Agents in turn, each with a prompt of its own that is the same in each call but its end."""
    events: list[Event] = []
    for turn in range(agents * rounds):
        agent = turn % agents
        fixed = [agent * 1000 + block for block in range(FIXED_BLOCKS)]
        who = {"workflow": "w", "agent": f"a{agent}", "app": "cycle"} if named else {}
        events.append(call(float(turn), [*fixed, 1_000_000 + turn], **who))
    return events


def by_policy(done: Replay) -> dict[str, Outcome]:
    return {outcome.policy: outcome for outcome in done.outcomes}


def test_in_a_cycle_lru_finds_nothing_and_the_forecasts_nearly_all_that_min_finds() -> None:
    sizes = Sizes(4 * FIXED_BLOCKS + 1, 1, BLOCK)
    done = replay(cycle(8, 40), ("lru", "ours-device", "optimum-device"), sizes)
    found = by_policy(done)
    assert found["lru"].total.device_tokens == 0
    optimum = found["optimum-device"].total
    assert found["ours-device"].total.device_tokens > 0.8 * optimum.device_tokens
    # Room for 4 of 8: the optimum is (4 - 1) / (8 - 1) of the fixed part.
    share = optimum.device_tokens / (8 * 40 * FIXED_BLOCKS * BLOCK)
    assert share == pytest.approx(3 / 7, abs=0.03)


def test_without_agents_ours_is_lru() -> None:
    sizes = Sizes(4 * FIXED_BLOCKS + 1, 8 * FIXED_BLOCKS, BLOCK)
    done = replay(cycle(6, 20, named=False), DEFAULT_POLICIES, sizes)
    found = by_policy(done)
    assert done.hinted == 0
    assert found["ours-device"].total == found["lru"].total
    assert found["ours"].total == found["hicache"].total


def test_every_token_of_every_prompt_is_found_or_computed() -> None:
    events = cycle(8, 20)
    sizes = Sizes(3 * FIXED_BLOCKS, 3 * FIXED_BLOCKS, BLOCK)
    done = replay(events, DEFAULT_POLICIES, sizes, windows=7)
    prompts = sum(each.prompt_tokens for each in events if isinstance(each, Call))
    for outcome in done.outcomes:
        assert outcome.total.prompt_tokens == prompts
        windows, agents = Sums(), Sums()
        for sums in outcome.windows:
            windows = windows.plus(sums)
        for sums in outcome.agents.values():
            agents = agents.plus(sums)
        assert windows == agents == outcome.total
        assert len(outcome.windows) == len(done.window_ends_s) == 7


def test_an_equal_prompt_costs_its_last_token_and_a_longer_one_its_end() -> None:
    one, two = [1, 2, 3], [1, 2, 4]
    events: list[Event] = [call(0, one), call(1, one), call(2, two)]
    done = replay(events, ("lru",), Sizes(100, 1, BLOCK), windows=3)
    computed = [sums.computed_tokens for sums in done.outcomes[0].windows]
    assert computed == [3 * BLOCK, 1, BLOCK]


def test_what_does_not_fit_is_left_out_for_everybody() -> None:
    events: list[Event] = [call(0, [1, 2, 3]), call(1, list(range(100)))]
    done = replay(events, DEFAULT_POLICIES, Sizes(10, 10, BLOCK))
    assert (done.calls, done.too_large) == (1, 1)
    with pytest.raises(ConfigurationError):
        replay(events, ("lru",), Sizes(1, 1, BLOCK))


def test_the_pool_holds_a_part_of_what_is_wanted_again() -> None:
    calls = [each for each in cycle(10, 5) if isinstance(each, Call)]
    assert sizes_for(calls, BLOCK, None, None) == Sizes(32, 64, BLOCK)
    assert sizes_for(calls, BLOCK, 160, 320) == Sizes(10, 20, BLOCK)
    with pytest.raises(ConfigurationError):
        sizes_for(calls, BLOCK, 15, None)


def test_losses_are_where_lru_computed_less() -> None:
    def outcome(policy: str, computed: int) -> Outcome:
        sums = Sums(0, 0, computed)
        return Outcome(policy, False, sums, [Sums(0, 0, 50), sums], {("", "a"): sums})

    outcomes = [outcome("lru", 100), outcome("ours-device", 150)]
    done = Replay(Sizes(1, 1, 1), 2, 0, 0, 10.0, [12.0, 14.0], outcomes)
    found = losses(done)
    assert [(each.policy, each.where) for each in found] == [
        ("ours-device", "calls until 4 s"),
        ("ours-device", "agent a"),
    ]
    assert found[0].ratio == 1.5


def test_the_forecast_says_who_calls_next_and_the_end_that_nobody_does() -> None:
    forecaster = RecordedForecaster()
    hint = None
    for event in cycle(3, 5):
        assert isinstance(event, Call)
        hint = forecaster.call(event)
    assert hint is not None and hint.agent == "a2"
    assert hint.forecast.steps["a0"] == 1
    end = forecaster.end(End(99.0, "w"))
    assert end is not None and end.forecast.done
    assert forecaster.end(End(99.0, "w")) is None
    forecaster.call(call(99.5, [1], workflow="w", agent="a0", app="cycle"))
    pause = forecaster.end(End(99.9, "w", is_resumable=True))
    assert pause is not None and not pause.forecast.done
    assert forecaster.call(call(100.0, [1])) is None


def test_a_session_without_agents_has_one() -> None:
    hint = Forecaster().call(call(0.0, [1], workflow="s"))
    assert hint is not None and hint.agent == "session"


prompts = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=6).map(
        lambda path: [hash(tuple(path[: end + 1])) % 2**62 for end in range(len(path))]
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=200)
@given(prompts, st.integers(6, 20), st.sampled_from(["lru", "ours-device"]))
def test_no_policy_finds_more_than_min(traffic: list[list[int]], room: int, policy: str) -> None:
    requests = [
        Request(CallId(0, number), "", Tokens("q", blocks), Tokens("q"))
        for number, blocks in enumerate(traffic)
    ]
    optimum = Optimum(NextUses([each.prompt for each in requests]), blocks=room)
    side = SIDES[policy]
    cache = PolicyCache(lambda tree: side.make(tree, None), device_blocks=room, host_blocks=0)
    best = sum(optimum.serve(each, 0.0).device_blocks for each in requests)
    found = sum(cache.serve(each, 0.0).device_blocks for each in requests)
    cache.tree.check()
    assert found <= best


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_books_are_right_under_random_traffic_of_agents(seed: int) -> None:
    chance = random.Random(seed)
    events: list[Event] = []
    for turn in range(120):
        workflow, agent = f"w{chance.randrange(3)}", f"a{chance.randrange(4)}"
        if chance.random() < 0.05:
            events.append(End(float(turn), workflow))
            continue
        first = chance.randrange(4)
        path = [chance.randrange(2) for _ in range(chance.randrange(6))]
        blocks = [hash((first, *path[:end])) % 2**62 for end in range(len(path) + 1)]
        who = {"workflow": workflow, "agent": agent} if chance.random() < 0.8 else {}
        events.append(call(float(turn), blocks, latency_s=chance.random() * 3, **who))
    done = replay(events, DEFAULT_POLICIES, Sizes(12, 12, BLOCK))
    found = by_policy(done)
    for name in ("hicache", "papers", "ours"):
        assert found[name].total.computed_tokens >= found["optimum"].total.computed_tokens
    best = found["optimum-device"].total.computed_tokens
    assert found["ours-device"].total.computed_tokens >= best
