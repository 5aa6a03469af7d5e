"""What to load back before it is asked for, in which order and how much (KVFlow, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic

from kvflow_agents.claims import Claim, N
from kvflow_agents.tenants import Tenant

MOST_WAITS = 3
"""For how many loads a request waits before it is run as without them."""
FEWEST_TOKENS = 10
"""A smaller piece is not worth a copy; SGLang's own `load_back_threshold`."""
# After so many loads in time the horizon is again what it was before they came late.
LOADS_IN_TIME = 32

Span = tuple[int, int]
"""From which token of a claim's key to which."""


@dataclass(frozen=True, slots=True)
class Load(Generic[N]):
    """A piece to load: tokens `start` to `stop` of a claim's key.

    Nothing that is needed as soon as its claim may give way to it.
    """

    claim: Claim[N]
    start: int
    stop: int

    @property
    def distance(self) -> int:
        """How far its agent is from its call."""
        assert self.claim.distance is not None, "nothing is loaded for who is not expected"
        return self.claim.distance


class PrefetchQueue(Generic[N]):
    """The prefixes of agents about to run, nearest first, until they are found on the device.

    Pure, and cheap where nothing changes: a claim is looked at again only after `want` or
    `recheck`, so a pass over settled workflows costs nothing. While loads come late it looks one
    step further ahead: on a link slower than a step the loads of two then run back to back.
    """

    def __init__(self, *, horizon_steps: int, most_agents: int, most_tokens: int) -> None:
        """Look `horizon_steps` ahead, at the `most_agents` nearest agents of each workflow.

        `most_tokens` is the size of a copy: what a more urgent one may find on the link.
        """
        self._base_steps = horizon_steps
        self._horizon_steps = horizon_steps
        self._in_time = 0
        self._most_agents = most_agents
        self._most_tokens = most_tokens
        self._wanted: dict[str, list[Claim[N]]] = {}
        self._unchecked: dict[Claim[N], None] = {}
        self._furthest: int | None = None  # distance of any that was wanted
        self._turn = 0
        self._last_turns: dict[Tenant, int] = {}

    def want(self, workflow: str, claims: Iterable[Claim[N]]) -> None:
        """The claims of a workflow's agents, without those whose call has arrived already."""
        self.forget(workflow)
        near = [c for c in claims if c.steps is not None and c.steps <= self._horizon_steps]
        if near:
            near.sort(key=_steps)
            self._wanted[workflow] = near[: self._most_agents]
            distances = [c.distance for c in self._wanted[workflow] if c.distance is not None]
            self._furthest = (
                max(distances) if self._furthest is None else max(self._furthest, *distances)
            )
            self._unchecked.update(dict.fromkeys(self._wanted[workflow]))

    def forget(self, workflow: str) -> None:
        """A workflow has ended, or its forecast no longer counts."""
        for claim in self._wanted.pop(workflow, ()):
            self._unchecked.pop(claim, None)

    def clear(self) -> None:
        """Forget everything: the cache is empty."""
        self._wanted.clear()
        self._unchecked.clear()
        self._furthest = None

    def note_lost(self, distance: int | None) -> bool:
        """Something at this distance has left the device; whether it may be wanted."""
        if distance is None or self._furthest is None or distance > self._furthest:
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

    def plan(
        self,
        missing: Callable[[Claim[N]], Span],
        may_load_for: Callable[[Tenant], bool] = lambda tenant: True,
    ) -> list[Load[N]]:
        """The next loads, to go in one copy; among equal steps it is first come, first served.

        `missing` tells which part of a claim the host has and the device lacks. Tenants take
        turns, those that have some to spare.
        """
        loads: list[Load[N]] = []
        room = self._most_tokens
        for claim in sorted(self._unchecked, key=self._order):
            start, stop = missing(claim)
            if start == stop or claim.steps is None:
                del self._unchecked[claim]
            elif room > 0 and may_load_for(claim.tenant):
                loads.append(Load(claim, start, min(stop, start + room)))
                room -= loads[-1].stop - start
        self._turn += 1
        waiting = {claim.tenant for claim in self._unchecked}
        before = {each: self._last_turns.get(each, 0) for each in waiting}
        self._last_turns = before | {load.claim.tenant: self._turn for load in loads}
        return loads

    def _order(self, claim: Claim[N]) -> tuple[int, int]:
        return self._last_turns.get(claim.tenant, 0), _steps(claim)


def _steps(claim: Claim[N]) -> int:
    assert claim.steps is not None
    return claim.steps
