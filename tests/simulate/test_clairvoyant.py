"""The optimum finds as much as any order of eviction can: compared with all of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations, count, islice

from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvflow_agents.prefix import Tokens
from kvflow_replay.caches import PolicyCache
from kvflow_simulate.clairvoyant import Clairvoyant, Future
from kvflow_simulate.requests import CallId, Request

Sequence_ = tuple[int, ...]
Call = tuple[Sequence_, Sequence_]
"""A prompt and its answer. The last token of a prompt is new, as that of a real one mostly is."""

Plan = tuple[int, int, int, int]
"""Of a call: which earlier one it goes on from, how much of that it holds, new tokens, answer."""


def trace(plans: Sequence[Plan]) -> list[Call]:
    fresh = count(1)
    said: list[Sequence_] = [()]
    calls: list[Call] = []
    for before, kept, new, answer in plans:
        begun = said[before % len(said)]
        prompt = begun[: kept % (len(begun) + 1)] + tuple(islice(fresh, new))
        calls.append((prompt, tuple(islice(fresh, answer))))
        said.append(prompt + calls[-1][1])
    return calls


def prefixes(tokens: Sequence_) -> frozenset[Sequence_]:
    return frozenset(tokens[:end] for end in range(1, len(tokens) + 1))


def fewest_computed(calls: Sequence[Call], pool_tokens: int) -> int:
    """By trying everything that could be kept, token by token."""

    @cache
    def left(index: int, cached: frozenset[Sequence_]) -> int:
        if index == len(calls):
            return 0
        prompt, answer = calls[index]
        computed = len(prefixes(prompt) - cached)
        used = prefixes(prompt + answer)
        others = cached - used
        room = min(pool_tokens - len(used), len(others))
        kept = (used | set(some) for some in combinations(others, room))
        # What is cached hangs together.
        whole = (each for each in kept if all(len(t) == 1 or t[:-1] in each for t in each))
        return computed + min(left(index + 1, frozenset(each)) for each in whole)

    return left(0, frozenset())


def computed(calls: Sequence[Call], pool_tokens: int) -> int:
    requests = [
        Request(CallId(0, number), "a", Tokens("q", prompt), Tokens("q", answer))
        for number, (prompt, answer) in enumerate(calls)
    ]
    future = Future(requests)
    pool = PolicyCache(
        lambda tree: Clairvoyant(tree, future), device_blocks=pool_tokens, host_blocks=0
    )
    done = 0
    for request in requests:
        done += len(request.prompt) - pool.serve(request, 0.0).device_blocks
        pool.tree.check()
    return done


plans = st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(1, 3), st.integers(0, 2))


@settings(max_examples=150, deadline=None)
@given(plans=st.lists(plans, min_size=3, max_size=7), spare_tokens=st.integers(0, 4))
@example(plans=[(0, 0, 2, 2), (0, 0, 3, 0), (1, 4, 1, 0)], spare_tokens=2)
def test_no_order_of_eviction_computes_less(plans: list[Plan], spare_tokens: int) -> None:
    calls = trace(plans)
    pool_tokens = max(len(prompt) + len(answer) for prompt, answer in calls) + spare_tokens
    assert computed(calls, pool_tokens) == fewest_computed(calls, pool_tokens)


def test_an_answer_that_a_later_prompt_repeats_is_kept() -> None:
    # The first prompt comes back too, but not before one that needs the whole pool.
    calls = trace(
        [(0, 0, 3, 0), (0, 0, 2, 2), (0, 0, 3, 0), (2, 4, 1, 0), (0, 0, 8, 0), (1, 3, 1, 0)]
    )
    assert computed(calls, 8) == 3 + 2 + 3 + 1 + 8 + 4


def test_a_leaf_goes_in_part() -> None:
    calls = trace([(0, 0, 2, 2), (0, 0, 3, 0), (1, 4, 1, 0)])
    assert computed(calls, 6) == 2 + 3 + 2
