"""The shadow's MIN against Belady's own rule, which knows the future."""

from __future__ import annotations

import random
from array import array
from collections import OrderedDict
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvflow_agents.shadow import Shadow, checksums

BLOCK = 4
Prompts = list[list[int]]


def belady_hits(prompts: Sequence[Sequence[int]], capacity: int) -> int:
    """Blocks found if, with the future known, what is used last goes first; offline."""
    uses: dict[int, list[int]] = {}
    for time, prompt in enumerate(prompts):
        for block in prompt:
            uses.setdefault(block, []).append(time)
    hits, held = 0, set[int]()
    for time, prompt in enumerate(prompts):
        own = prompt[:capacity]
        depth = 0
        while depth < len(own) and own[depth] in held:
            depth += 1
        hits += depth
        held.update(own)
        others = [each for each in held if each not in own]

        def next_use(block: int, time: int = time) -> tuple[float, int]:
            # Of one prompt the deepest goes first: without what is above it, it is of no use.
            return min((t for t in uses[block] if t > time), default=float("inf")), block

        others.sort(key=next_use, reverse=True)
        for block in others[: max(0, len(held) - capacity)]:
            held.discard(block)
    return hits


def lru_hits(prompts: Sequence[Sequence[int]], capacity: int) -> int:
    hits, held = 0, OrderedDict[int, None]()
    for prompt in prompts:
        own = prompt[:capacity]
        depth = 0
        while depth < len(own) and own[depth] in held:
            depth += 1
        hits += depth
        for block in reversed(own):
            held[block] = None
            held.move_to_end(block)
        while len(held) > capacity:
            held.popitem(last=False)
    return hits


def path(agent: int, depth: int, tail: int) -> list[int]:
    """Blocks of an agent's prompt: its prefix, then what is only this call's."""
    own = 1_000_000 * (1 + agent) + 10_000 * depth + tail
    return [agent * 1000 + each for each in range(depth)] + [own]


def traffic(seed: int, requests: int, agents: int, depth: int) -> Prompts:
    chance = random.Random(seed)
    depths = [chance.randint(1, depth) for _ in range(agents)]
    shares = [1 / (rank + 1) for rank in range(agents)]
    callers = chance.choices(range(agents), shares, k=requests)
    return [path(each, depths[each], tail) for tail, each in enumerate(callers)]


def shadow_of(prompts: Prompts, capacity: int, **options: int) -> Shadow:
    shadow = Shadow(capacity * BLOCK, block_tokens=BLOCK, recent_requests=len(prompts), **options)
    for prompt in prompts:
        shadow.see(prompt, 0)
    return shadow


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=40
    ),
    st.integers(1, 16),
)
def test_min_is_what_belady_finds_with_the_future_known(
    calls: list[tuple[int, int, int]], capacity: int
) -> None:
    prompts = [path(agent, depth, tail) for agent, depth, tail in calls]
    shares = shadow_of(prompts, capacity).recent()
    assert shares.optimum == belady_hits(prompts, capacity)
    assert shares.lru == lru_hits(prompts, capacity)
    assert shares.lru <= shares.optimum


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=80
    ),
    st.integers(1, 8),
    st.integers(1, 4),
)
def test_where_much_is_forgotten_what_belady_finds_lies_between_two_figures(
    calls: list[tuple[int, int, int]], capacity: int, forget_after: int
) -> None:
    prompts = [path(agent, depth, tail) for agent, depth, tail in calls]
    shadow = shadow_of(prompts, capacity, most_known=forget_after * capacity)
    shares = shadow.recent()
    assert shares.optimum <= belady_hits(prompts, capacity) <= shadow.most_found(shares)


def test_prompts_that_come_back_late_are_still_known_in_a_pool_as_it_is_deployed() -> None:
    # A cycle of 60 times the room: Belady keeps one prompt and a part of another of them.
    prompts = [path(call % 110, 11, call // 110) for call in range(440)]
    shadow = Shadow.of_pool(20)
    for prompt in prompts:
        shadow.see(prompt, 0)
    shares = shadow.recent()
    assert shares.optimum == belady_hits(prompts, 20) > 0
    assert (shares.lru, shadow.most_found(shares)) == (0, shares.optimum)


def test_an_optimum_that_is_not_remembered_is_not_said_to_be_nothing() -> None:
    prompts = [path(call % 40, 11, call // 40) for call in range(160)]
    shadow = shadow_of(prompts, 20, most_known=160)
    shares = shadow.recent()
    assert (shares.optimum, shares.cached) == (0, 0)
    assert shadow.most_found(shares) >= belady_hits(prompts, 20) > 0


@pytest.mark.parametrize("seed", range(3))
def test_on_traffic_of_agents_min_is_within_one_percent_of_the_offline_computation(
    seed: int,
) -> None:
    prompts = traffic(seed, requests=600, agents=40, depth=12)
    shares = shadow_of(prompts, capacity=80).recent()
    assert shares.optimum == pytest.approx(belady_hits(prompts, 80), rel=0.01)
    assert shares.optimum > shares.lru


@pytest.mark.parametrize("seed", range(3))
def test_a_sample_tells_the_share_of_the_whole_within_one_percent(seed: int) -> None:
    prompts = traffic(seed, requests=1500, agents=120, depth=200)
    prompts = [[block * 2_246_822_519 % 2**32 for block in prompt] for prompt in prompts]
    whole = shadow_of(prompts, 4000, most_sampled=4000).recent()
    sample = shadow_of(prompts, 4000, most_sampled=1000)
    assert sample.rate == 0.25
    shares = sample.recent()
    assert shares.optimum / shares.blocks == pytest.approx(whole.optimum / whole.blocks, abs=0.01)
    assert shares.lru / shares.blocks == pytest.approx(whole.lru / whole.blocks, abs=0.01)


def test_memory_is_bounded_over_endless_traffic() -> None:
    shadow = Shadow(100 * BLOCK, block_tokens=BLOCK, most_known=300, recent_requests=50)
    for prompt in traffic(7, requests=3000, agents=300, depth=20):
        shadow.see(prompt, 0)
    assert len(shadow._last_use) <= 300
    assert len(shadow._lru) <= 100
    assert len(shadow._promised._drops) <= 100
    assert shadow.recent().requests == 50


def test_what_the_cache_found_is_counted_in_the_same_sample() -> None:
    shadow = Shadow(100 * BLOCK, block_tokens=BLOCK)
    shadow.see([1, 2, 3, 4], 0)
    shadow.see([1, 2, 3, 5], 3 * BLOCK + 1)
    shares = shadow.recent()
    assert (shares.cached, shares.lru, shares.optimum, shares.blocks) == (3, 3, 3, 8)


def test_the_last_token_of_a_prompt_is_found_by_nobody() -> None:
    shadow = Shadow(100 * BLOCK, block_tokens=BLOCK)
    for cached_tokens in (0, 2 * BLOCK, 2 * BLOCK):
        shares = shadow.see([1, 2, 3], cached_tokens, 3 * BLOCK - 1)
    assert (shares.cached, shares.lru, shares.optimum, shares.blocks) == (2, 2, 2, 3)
    longer = shadow.see([1, 2, 3, 4], 3 * BLOCK, 4 * BLOCK - 1)
    assert (longer.cached, longer.lru, longer.optimum) == (3, 3, 3)


def test_a_block_is_named_by_all_that_precedes_it() -> None:
    one = checksums(array("q", [1, 2, 3, 4, 5]), 2)
    other = checksums(array("q", [9, 2, 3, 4]), 2)
    assert len(one) == len(other) == 2
    assert one[0] != other[0] and one[1] != other[1]
    assert checksums(array("q", [1, 2, 7, 8]), 2)[0] == one[0]
    assert checksums(array("q", [1, 2]), 2, namespace="salt") != one[:1]
    assert checksums(array("q", []), 2) == []
