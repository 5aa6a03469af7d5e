"""Belady's MIN on call sequences whose answer is known."""

from __future__ import annotations

import itertools

import pytest

from demos.optimum import PromptCall, optimum_cached_tokens

FIXED_TOKENS = 1000
REST_TOKENS = 10


def calls(owners: list[str], *, gap_s: float = 1.0, duration_s: float = 0.5) -> list[PromptCall]:
    """Equal prompts, one after another, each with a short rest that nobody shares."""
    return [
        PromptCall(
            owner=owner,
            total_tokens=FIXED_TOKENS + REST_TOKENS,
            shared_tokens=FIXED_TOKENS if owner in owners[:index] else 0,
            kept_tokens=FIXED_TOKENS if owner in owners[index + 1 :] else 0,
            was_found=False,
            started_s=index * gap_s,
            ended_s=index * gap_s + duration_s,
        )
        for index, owner in enumerate(owners)
    ]


def room_for(prefixes: int) -> int:
    return prefixes * FIXED_TOKENS + REST_TOKENS


def test_everything_is_found_again_where_everything_fits() -> None:
    sequence = calls(["a", "b", "c"] * 4)
    assert optimum_cached_tokens(sequence, room_for(3)) == 9 * FIXED_TOKENS


def test_nothing_is_found_where_one_prompt_fits() -> None:
    assert optimum_cached_tokens(calls(["a", "b"] * 5), room_for(1)) == 0


@pytest.mark.parametrize(("agents", "room"), [(10, 5), (8, 4), (6, 2), (5, 4)])
def test_a_cycle_of_equal_agents_reaches_the_known_share(agents: int, room: int) -> None:
    rounds = 200
    sequence = calls([str(agent) for _ in range(rounds) for agent in range(agents)])
    hits = optimum_cached_tokens(sequence, room_for(room)) / FIXED_TOKENS
    assert hits / (agents * rounds) == pytest.approx((room - 1) / (agents - 1), abs=0.01)


def test_no_order_of_evictions_does_better() -> None:
    owners = list("abcabdacbdbacdabca")
    best = max(hits_of(owners, choice) for choice in itertools.product((0, 1), repeat=9))
    assert optimum_cached_tokens(calls(owners), room_for(2)) / FIXED_TOKENS >= best


def hits_of(owners: list[str], choices: tuple[int, ...]) -> int:
    """Hits with room for two prefixes, one of them the caller's; `choices` picks who stays."""
    kept: list[str] = []
    hits = 0
    pending = iter(choices)
    for owner in owners:
        hits += owner in kept
        others = [each for each in kept if each != owner]
        if len(others) > 1:
            others = [others[next(pending, 0)]]
        kept = [*others, owner]
    return hits


def test_calls_in_flight_hold_what_they_use() -> None:
    together = calls(["a", "b", "a", "b"], gap_s=0.1, duration_s=10.0)
    alone = calls(["a", "b", "a", "b"])
    assert optimum_cached_tokens(alone, room_for(2)) == 2 * FIXED_TOKENS
    # Their first calls still run, and the run found nothing either.
    assert optimum_cached_tokens(together, room_for(2)) == 0
