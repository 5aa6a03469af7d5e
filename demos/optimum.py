"""What no policy can beat: Belady's MIN over the agents' prefixes of a finished run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PromptCall:
    """One model call: whose prompt it sent, what of it could be cached, and when it ran."""

    owner: str
    total_tokens: int
    """Prompt and answer: what the call occupies while it runs."""
    shared_tokens: int
    """What the prompt has in common with its owner's last one; 0 for the first."""
    kept_tokens: int
    """What the owner's next prompt will share with this one; 0 for the last."""
    was_found: bool
    """Whether the run found what was shared in its cache."""
    started_s: float
    ended_s: float


def optimum_cached_tokens(calls: Sequence[PromptCall], pool_tokens: int) -> int:
    """The most prompt tokens that a cache of `pool_tokens` could have had for these calls.

    Furthest next use goes first; calls in flight pin what they occupy. Prefixes are kept whole
    or not at all. What another call is still computing is there in time only if the run found it.
    """
    ordered = sorted(calls, key=lambda call: call.started_s)
    next_use = _next_uses(ordered)
    kept: dict[str, tuple[float, int]] = {}  # owner -> (index of next use, tokens)
    running: list[PromptCall] = []
    computing: dict[str, float] = {}  # owner -> when a call that computes its prefix has ended
    cached_tokens = 0
    for index, call in enumerate(ordered):
        running = [other for other in running if other.ended_s > call.started_s]
        is_there = call.was_found or computing.get(call.owner, 0.0) <= call.started_s
        if call.owner in kept and is_there:
            cached_tokens += call.shared_tokens
        elif call.owner not in kept:
            computing[call.owner] = call.ended_s
        kept[call.owner] = (next_use[index], call.kept_tokens)
        running.append(call)
        _make_room(kept, running, pool_tokens)
    return cached_tokens


def _make_room(
    kept: dict[str, tuple[float, int]], running: Sequence[PromptCall], pool_tokens: int
) -> None:
    # One prefix of several running calls is held once.
    pinned = {call.owner: call.kept_tokens for call in running}
    in_flight = sum(call.total_tokens - call.kept_tokens for call in running)
    in_flight += sum(pinned.values())
    idle = sorted(
        ((use, owner) for owner, (use, _) in kept.items() if owner not in pinned), reverse=True
    )
    held = in_flight + sum(kept[owner][1] for _, owner in idle)
    for _, owner in idle:
        if held <= pool_tokens:
            break
        held -= kept.pop(owner)[1]
    for owner in [owner for owner in kept if math.isinf(kept[owner][0])]:
        del kept[owner]


def _next_uses(calls: Sequence[PromptCall]) -> list[float]:
    uses = [math.inf] * len(calls)
    seen: dict[str, int] = {}
    for index in reversed(range(len(calls))):
        uses[index] = seen.get(calls[index].owner, math.inf)
        seen[calls[index].owner] = index
    return uses
