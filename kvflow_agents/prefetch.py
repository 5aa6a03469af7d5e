"""What to load back before it is asked for, in which order and how much (KVFlow, section 3.2)."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic

from kvflow_agents.claims import Claim, N
from kvflow_agents.link_rate import LinkRate
from kvflow_agents.tenants import Tenant

MOST_WAITS = 3
"""A request waits for at most this many loads, then runs as it would without kvflow."""
FEWEST_TOKENS = 10
"""A smaller piece is not worth a copy; SGLang's own `load_back_threshold`."""
PIECE_TOKENS = 64
"""What finds too little room is loaded up to a multiple of it, counted from the prompt's beginning.

Cut anywhere, what agents share would fall into more and more nodes, which nothing joins again.
"""
SPARE_TOKENS = 32
"""A load ahead leaves free what each running request is about to write, so much at most.

Without that the next steps evict a prefix that has just been loaded, and the room is filled again.
"""
GAP = 2
"""KV gives way to a load if it is needed after so many times as long, on the clock, at least.

Of what is needed at about the same time chance decides which is used first, and each swap costs a
load, which others on the link may be waiting behind.
"""
# After so many loads in time the horizon is again what it was before they came late.
LOADS_IN_TIME = 32

Span = tuple[int, int]
"""From which token of a claim's key to which."""


@dataclass(frozen=True, slots=True)
class Load(Generic[N]):
    """A piece to load: tokens `start` to `stop` of a claim's key.

    Only KV that is needed `beyond` a distance may give way to it.
    """

    claim: Claim[N]
    start: int
    stop: int
    beyond: int

    @property
    def tokens(self) -> int:
        """How many there are."""
        return self.stop - self.start


def tokens_to_load(start: int, stop: int, room_tokens: int, page_size: int = 1) -> int:
    """How many of the tokens from `start` to `stop` to load where there is room for so many."""
    if start + room_tokens >= stop:
        return stop - start
    piece_tokens = math.lcm(PIECE_TOKENS, page_size)
    return max((start + room_tokens) // piece_tokens * piece_tokens - start, 0)


MakeRoom = Callable[[Load[N]], int | None]
"""Makes room for a load: for how many of its tokens there is any now.

None: not with this copy, which brings the beginning of its path for another.
"""
Reserve = Callable[[Load[N]], int]
"""Takes the room for a load that begins at once: how many tokens it is, 0 if it cannot."""


class PrefetchQueue(Generic[N]):
    """The prefixes of agents about to run, nearest first, until they are found on the device.

    Near is who has the least distance, by which room is made, too. Pure, and cheap where nothing
    changes: a claim is looked at again only after `want` or `note_lost`, so a pass over settled
    workflows costs nothing. While loads come late it looks one step further ahead: on a link
    slower than a step the loads of two then run back to back.
    """

    def __init__(
        self, *, horizon_steps: int, most_agents: int, most_tokens: int, page_size: int = 1
    ) -> None:
        """Look `horizon_steps` ahead, at the `most_agents` nearest agents of each workflow.

        `most_tokens` is the size of a copy: what a more urgent one may find on the link.
        """
        self._base_steps = horizon_steps
        self._horizon_steps = horizon_steps
        self._in_time = 0
        self._most_agents = most_agents
        self._most_tokens = most_tokens
        self._page_size = page_size
        self._wanted: dict[str, list[Claim[N]]] = {}
        self._unchecked: dict[Claim[N], None] = {}
        self._furthest = -math.inf  # distance of any that was wanted
        self._link = LinkRate()
        self._under_way: tuple[int, int] | None = None  # tokens, and when they were started
        self._turn = 0
        self._last_turns: dict[Tenant, int] = {}

    def want(self, workflow: str, claims: Iterable[Claim[N]]) -> None:
        """The claims of a workflow's agents, without those whose call has arrived already."""
        self.forget(workflow)
        near = [c for c in claims if self.covers(c.steps) and c.distance is not None]
        if near:
            near.sort(key=_distance)
            self._wanted[workflow] = near[: self._most_agents]
            self._furthest = max(self._furthest, _distance(self._wanted[workflow][-1]))
            self._unchecked.update(dict.fromkeys(self._wanted[workflow]))

    def forget(self, workflow: str) -> None:
        """A workflow has ended, or its forecast no longer counts."""
        for claim in self._wanted.pop(workflow, ()):
            self._unchecked.pop(claim, None)

    def clear(self) -> None:
        """Forget everything: the cache is empty."""
        self._wanted.clear()
        self._unchecked.clear()
        self._furthest = -math.inf
        self._under_way = None

    def note_lost(self, distance: int | None) -> bool:
        """Something at this distance has left the device; whether it may be wanted."""
        if distance is None or distance > self._furthest:
            return False
        for claims in self._wanted.values():
            self._unchecked.update(dict.fromkeys(claims))
        return True

    def note_late(self) -> None:
        """A request had to wait for a load."""
        self._horizon_steps = self._base_steps + 1
        self._in_time = 0

    def note_in_time(self) -> None:
        """What was loaded ahead is being read, and nobody waited."""
        self._in_time += 1
        if self._in_time >= LOADS_IN_TIME:
            self._horizon_steps = self._base_steps

    def covers(self, steps: int | None) -> bool:
        """Whether agents that run in so many steps are looked at."""
        return steps is not None and steps <= self._horizon_steps

    def fill(
        self,
        missing: Callable[[Claim[N]], Span],
        make_room: MakeRoom[N],
        reserve: Reserve[N],
        budget_of: Callable[[Tenant], int] = lambda tenant: sys.maxsize,
        *,
        now_ms: int | None = None,
    ) -> int:
        """Fill one copy, nearest first; how many tokens go into it.

        `missing` tells which part of a claim the host has and the device lacks, `budget_of` how
        many tokens may be loaded for a tenant. Room is made in the order in which loads go, so
        where one finds none, its tenant's later ones find none either and are not tried; where one
        finds less than a piece, others may be smaller. What finds no room takes none of the copy
        from others. Tenants take turns.

        With `now_ms`, on the clock of the distances, a copy takes more along only as far as the
        link carries all of it before the first call that it is for: its loads land together.
        """
        tokens, most_tokens = 0, float(self._most_tokens)
        budgets: dict[Tenant, int] = {}
        served: set[Tenant] = set()
        crowded: set[Tenant] = set()
        for claim in sorted(self._unchecked, key=self._order):
            start, stop = missing(claim)
            if stop - start < FEWEST_TOKENS or claim.distance is None:
                # Room made for another may have let its forecast run out.
                self._unchecked.pop(claim, None)
                continue
            budget = budgets.setdefault(claim.tenant, budget_of(claim.tenant))
            most = self._to_load(start, stop, min(int(most_tokens) - tokens, budget))
            if most < FEWEST_TOKENS or claim.tenant in crowded:
                continue
            beyond = _beyond(claim, now_ms)
            room = make_room(Load(claim, start, start + most, beyond))
            if room is None:
                continue
            if room < FEWEST_TOKENS:
                crowded.add(claim.tenant)
                continue
            most = self._to_load(start, start + most, room)
            if most < FEWEST_TOKENS:
                continue
            reserved = reserve(Load(claim, start, start + most, beyond))
            if reserved:
                most_tokens = min(most_tokens, self._carried_before(claim, now_ms))
                tokens += reserved
                budgets[claim.tenant] -= reserved
                served.add(claim.tenant)
        self._note_turns(served)
        self._under_way = None if now_ms is None or not tokens else (tokens, now_ms)
        return tokens

    def note_landed(self, now_ms: int | None) -> None:
        """The copy that was filled last has landed, if it had not before."""
        if self._under_way is not None and now_ms is not None:
            tokens, started_ms = self._under_way
            self._link.note(tokens, now_ms - started_ms)
        self._under_way = None

    def _to_load(self, start: int, stop: int, room_tokens: int) -> int:
        return tokens_to_load(start, stop, room_tokens, self._page_size)

    def _carried_before(self, claim: Claim[N], now_ms: int | None) -> float:
        """How many tokens the link carries before a claim's call, for all that is known."""
        tokens = None if now_ms is None else self._link.tokens_in(_distance(claim) - now_ms)
        return math.inf if tokens is None else tokens

    def _note_turns(self, served: set[Tenant]) -> None:
        self._turn += 1
        waiting = {claim.tenant for claim in self._unchecked}
        before = {each: self._last_turns.get(each, 0) for each in waiting}
        self._last_turns = before | dict.fromkeys(served, self._turn)

    def _order(self, claim: Claim[N]) -> tuple[int, float]:
        return self._last_turns.get(claim.tenant, 0), _distance(claim)


def _distance(claim: Claim[Any]) -> float:
    """How far its agent is from its call; last of all who is not expected any more."""
    return math.inf if claim.distance is None else claim.distance


def _beyond(claim: Claim[Any], now_ms: int | None) -> int:
    """What is needed no further away does not give way to a claim's load."""
    assert claim.distance is not None, "nothing is loaded for who is not expected"
    if now_ms is None:
        return claim.distance
    return claim.distance + (GAP - 1) * max(claim.distance - now_ms, 0)
