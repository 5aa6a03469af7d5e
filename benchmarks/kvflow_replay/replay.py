"""A trace under several policies at once: what each finds, by agent and over time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kvflow_agents.errors import ConfigurationError
from kvflow_replay.caches import Cache, Found, PolicyCache
from kvflow_replay.calls import Call, End, Event
from kvflow_replay.forecasts import RecordedForecaster
from kvflow_replay.optimum import NextUses, Optimum
from kvflow_replay.reader import unshared
from kvflow_simulate.requests import CallId, Request
from kvflow_simulate.sides import SAME_TIERS, SIDES, Side

DEFAULT_POLICIES = ("lru", "ours-device", "optimum-device", "hicache", "papers", "ours", "optimum")
# Of the blocks that are wanted again: with room for all of them every policy is the same.
POOL_SHARE = 0.4
HOST_POOLS = 2
NOBODY = "(no agent)"
APP_CHARS = 8

Agent = tuple[str, str]
"""An application and the name of one of its agents."""


class Sizes(NamedTuple):
    """The pools of a replay, in blocks."""

    device_blocks: int
    host_blocks: int
    block_tokens: int


class Sums(NamedTuple):
    """Prompt tokens, by where they were found."""

    device_tokens: int = 0
    host_tokens: int = 0
    computed_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        return sum(self)

    def plus(self, other: Sums) -> Sums:
        return Sums(*(one + more for one, more in zip(self, other, strict=True)))


@dataclass(slots=True)
class Outcome:
    """What one policy has done with a trace."""

    policy: str
    has_host_tier: bool
    total: Sums = Sums()
    windows: list[Sums] = field(default_factory=list)
    agents: dict[Agent, Sums] = field(default_factory=dict)


@dataclass(slots=True)
class Replay:
    """The trace as it was replayed, and what came of it."""

    sizes: Sizes
    calls: int
    too_large: int
    """Calls that do not fit in the pool: left out for every policy."""
    hinted: int
    begin_s: float
    """When the first call was made, by the trace's clock."""
    window_ends_s: list[float]
    outcomes: list[Outcome]


def sizes_for(
    calls: Sequence[Call], block_tokens: int, pool_tokens: int | None, host_tokens: int | None
) -> Sizes:
    """Pools as asked for, else of a size at which the policies differ."""
    if pool_tokens is None:
        prompts = [call.blocks for call in calls]
        wanted = NextUses(prompts).most_wanted(prompts)
        longest = max(_blocks(call, block_tokens) for call in calls)
        device_blocks = max(int(POOL_SHARE * wanted), longest)
    else:
        device_blocks = pool_tokens // block_tokens
    host_blocks = HOST_POOLS * device_blocks if host_tokens is None else host_tokens // block_tokens
    if device_blocks < 1 or host_blocks < 1:
        raise ConfigurationError(f"a pool has to hold at least a block of {block_tokens} tokens")
    return Sizes(device_blocks, host_blocks, block_tokens)


def in_order(events: Iterable[Event]) -> list[Event]:
    """In the order of time; what happens at one time stays in the order of the file."""
    return sorted(events, key=lambda event: event.at_s)


def first(events: Iterable[Event], calls: int | None) -> Iterator[Event]:
    """All events, or those down to so many calls."""
    left = calls
    for event in events:
        yield event
        if left is not None and isinstance(event, Call):
            left -= 1
            if not left:
                return


def replay(
    events: Sequence[Event],
    policies: Sequence[str],
    sizes: Sizes,
    *,
    windows: int = 20,
    progress: Callable[[], None] = lambda: None,
) -> Replay:
    """Replay events, which are in the order of time, in caches side by side."""
    calls = [event for event in events if isinstance(event, Call)]
    fits = [_blocks(call, sizes.block_tokens) <= sizes.device_blocks for call in calls]
    served = [call for call, does_fit in zip(calls, fits, strict=True) if does_fit]
    if not served:
        raise ConfigurationError("no call of the trace fits in the pool")
    sides = [SIDES[name] for name in dict.fromkeys(policies)]
    caches = _caches(sides, sizes, served)
    outcomes = [Outcome(side.name, side.has_host_tier) for side in sides]
    done = Replay(sizes, len(served), len(calls) - len(served), 0, events[0].at_s, [], outcomes)
    forecaster, number = RecordedForecaster(), 0
    per_window = -(-len(served) // windows)
    for event in events:
        if isinstance(event, End):
            if (hint := forecaster.end(event)) is not None:
                for side, cache in zip(sides, caches, strict=True):
                    if side.is_hinted:
                        cache.tell(hint, event.at_s)
            continue
        hint = forecaster.call(event)
        if _blocks(event, sizes.block_tokens) > sizes.device_blocks:
            continue
        if number % per_window == 0:
            done.window_ends_s.append(event.at_s)
            for outcome in outcomes:
                outcome.windows.append(Sums())
        done.window_ends_s[-1] = event.at_s
        done.hinted += hint is not None
        request = _request(event, number, sizes.block_tokens)
        for side, cache, outcome in zip(sides, caches, outcomes, strict=True):
            request.hint = hint if side.is_hinted else None
            _add(outcome, event, _sums(event, cache.serve(request, event.at_s), sizes))
        number += 1
        progress()
    return done


def _caches(sides: Sequence[Side], sizes: Sizes, calls: Sequence[Call]) -> list[Cache]:
    uses = None
    caches: list[Cache] = []
    for side in sides:
        host_blocks = sizes.host_blocks if side.has_host_tier else 0
        if side.knows_the_future:
            uses = uses or NextUses([call.blocks for call in calls])
            caches.append(Optimum(uses, blocks=sizes.device_blocks + host_blocks))
        else:
            caches.append(_policy_cache(side, sizes.device_blocks, host_blocks))
    return caches


def _policy_cache(side: Side, device_blocks: int, host_blocks: int) -> Cache:
    return PolicyCache(
        lambda tree: side.make(tree, None), device_blocks=device_blocks, host_blocks=host_blocks
    )


def _blocks(call: Call, block_tokens: int) -> int:
    """Those that a call and its answer take."""
    return -(-(call.prompt_tokens + call.output_tokens) // block_tokens)


def _request(call: Call, number: int, block_tokens: int) -> Request:
    answer = unshared(_blocks(call, block_tokens) - len(call.blocks))
    return Request(CallId(0, number), call.agent or "", call.blocks, answer)


def _sums(call: Call, found: Found, sizes: Sizes) -> Sums:
    """In tokens. The last block is partial, and the last token is always computed."""
    most = call.prompt_tokens - 1
    device = min(found.device_blocks * sizes.block_tokens, most)
    cached = min((found.device_blocks + found.host_blocks) * sizes.block_tokens, most)
    return Sums(device, cached - device, call.prompt_tokens - cached)


def _add(outcome: Outcome, call: Call, sums: Sums) -> None:
    agent = call.app or "", call.agent or NOBODY
    outcome.total = outcome.total.plus(sums)
    outcome.windows[-1] = outcome.windows[-1].plus(sums)
    outcome.agents[agent] = outcome.agents.get(agent, Sums()).plus(sums)


def agent_title(app: str, name: str) -> str:
    """An agent's name, with the beginning of its app's, which may be a hash."""
    return f"{name} of {app[:APP_CHARS]}" if app else name


@dataclass(frozen=True, slots=True)
class Loss:
    """Where a policy computed more than LRU did in the same pools."""

    policy: str
    where: str
    computed_tokens: int
    lru_tokens: int

    @property
    def ratio(self) -> float:
        return self.computed_tokens / self.lru_tokens


def baseline(done: Replay, outcome: Outcome, name: str) -> Outcome | None:
    """What LRU (`lru`) or MIN (`optimum`) did in the same pools; None if it was not run."""
    wanted = SAME_TIERS[name][outcome.has_host_tier]
    return next((each for each in done.outcomes if each.policy == wanted), None)


def losses(done: Replay, *, above: float = 1.02) -> list[Loss]:
    """The windows and agents for which a policy computed more: `above` times LRU's, and a block."""
    found = []
    for outcome in done.outcomes:
        lru = baseline(done, outcome, "lru")
        if lru is None or lru is outcome:
            continue
        ends = [end_s - done.begin_s for end_s in done.window_ends_s]
        pairs = [
            (f"calls until {end_s:,.0f} s", ours, theirs)
            for end_s, ours, theirs in zip(ends, outcome.windows, lru.windows, strict=True)
        ]
        pairs += [
            (f"agent {agent_title(app, name)}", sums, lru.agents[app, name])
            for (app, name), sums in outcome.agents.items()
        ]
        found += [
            Loss(outcome.policy, where, ours.computed_tokens, theirs.computed_tokens)
            for where, ours, theirs in pairs
            # A block more is no regime.
            if ours.computed_tokens
            > max(above * theirs.computed_tokens, theirs.computed_tokens + done.sizes.block_tokens)
        ]
    return found
