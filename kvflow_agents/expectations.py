"""What a workflow expects of each of its agents, as its forecasts and their changes have told."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import islice

from kvflow_agents.forecast import Figures, Forecast

MAX_AGENTS_TOLD = 65_536
"""Of one workflow; beyond them agents not expected again are forgotten, then new ones ignored."""


class Expectations:
    """The steps-to-execution of one workflow's agents, told whole or by what changed.

    Changes may come in any order: for each agent the newest counts. A whole forecast replaces
    all that is older, and is ignored if anything newer was heard. Taking n changes in costs
    O(n log n), however many agents there are. Orders are those of the messages, so that all
    ranks of a server agree.
    """

    def __init__(self) -> None:
        self.seq = -1
        """Of the newest message heard."""
        self.steps: dict[str, int | None] = {}
        self.due_ms: dict[str, int] = {}
        self.chance: dict[str, int] = {}
        self._whole_seq = -1
        self._seq_of: dict[str, int] = {}  # of agents told by changes
        self._at: dict[int, dict[str, None]] = {}  # steps -> agents, those told last at the end
        self._later: list[int] = []  # a heap of the steps above 0 that agents are at, or were

    def take_in(self, forecast: Forecast) -> Iterable[str] | None:
        """The agents whose steps may have changed; None if the message is too old to matter."""
        if not forecast.changes:
            return self._replace(forecast) if forecast.seq > self.seq else None
        fresh = [agent for agent in forecast.steps if self._is_news(agent, forecast.seq)]
        if forecast.seq <= self._whole_seq or (forecast.seq <= self.seq and not fresh):
            return None
        self.seq = max(self.seq, forecast.seq)
        told = [agent for agent in fresh if self._has_room_for(agent)]
        for agent in told:
            self._seq_of[agent] = forecast.seq
            self._put(agent, forecast.steps[agent])
            _amend(self.due_ms, agent, forecast.due_ms)
            _amend(self.chance, agent, forecast.chance)
        return told

    def at(self, steps: int) -> Iterator[str]:
        """The agents that run in so many steps; those told of last come last."""
        return iter(self._at.get(steps, ()))

    def in_order(self) -> Iterator[str]:
        """All agents told of, nearest first, those that are not expected again last."""
        for steps in sorted(self._at):
            yield from self._at[steps]
        yield from (agent for agent, steps in self.steps.items() if steps is None)

    def nearest(self) -> int | None:
        """The smallest steps above 0 that any agent is at."""
        while self._later and self._later[0] not in self._at:
            heapq.heappop(self._later)
        return self._later[0] if self._later else None

    def soonest(self, most: int) -> Iterator[tuple[str, int]]:
        """Agents and their steps, the smallest first, so many at most.

        Looks at each number of steps that agents are at, not at each agent.
        """
        nearest = heapq.nsmallest(most, self._at)
        coming = ((agent, steps) for steps in nearest for agent in self._at[steps])
        return islice(coming, most)

    def _replace(self, forecast: Forecast) -> Iterable[str]:
        before = self.steps
        self.seq = self._whole_seq = forecast.seq
        self.steps = {}
        self.due_ms = dict(forecast.due_ms)
        self.chance = dict(forecast.chance)
        self._seq_of.clear()
        self._at.clear()
        self._later.clear()
        for agent, steps in forecast.steps.items():
            self._put(agent, steps)
        return [*before, *(agent for agent in self.steps if agent not in before)]

    def _is_news(self, agent: str, seq: int) -> bool:
        return seq > self._seq_of.get(agent, self._whole_seq)

    def _has_room_for(self, agent: str) -> bool:
        if agent not in self.steps and len(self.steps) >= MAX_AGENTS_TOLD:
            for each in [each for each, steps in self.steps.items() if steps is None]:
                del self.steps[each]
                self.due_ms.pop(each, None)
                self.chance.pop(each, None)
                self._seq_of.pop(each, None)
        return agent in self.steps or len(self.steps) < MAX_AGENTS_TOLD

    def _put(self, agent: str, steps: int | None) -> None:
        before = self.steps.get(agent)
        if before is not None:
            del self._at[before][agent]
            if not self._at[before] and before != steps:
                del self._at[before]
        self.steps[agent] = steps
        if steps is None:
            return
        if steps not in self._at:
            self._at[steps] = {}
            if steps:
                self._push(steps)
        self._at[steps][agent] = None

    def _push(self, steps: int) -> None:
        heapq.heappush(self._later, steps)
        # Steps that nobody is at any more go when they come up; a heap of mostly such is rebuilt.
        if len(self._later) > 2 * len(self._at) + 64:
            self._later = sorted(each for each in self._at if each)


def _amend(known: dict[str, int], agent: str, said: Figures) -> None:
    """What is not said of an agent that is named is unknown from now on."""
    if agent in said:
        known[agent] = said[agent]
    else:
        known.pop(agent, None)
