"""What one message leaves to later ones, where it is about more agents than one may look at."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Generic

from kvflow_agents.claims import N
from kvflow_agents.known_workflow import KnownWorkflow


class Backlog(Generic[N]):
    """Claims to give up, and agents whose claims are out of date.

    Counted in agents and never in time, so that all ranks of a server do the same. Until its turn
    comes a claim stays as it was: soft, and right but for the news. Bounded by what is remembered:
    an agent waits once, however often it is told of, and whoever has gone goes before the others,
    so that claims are given up as fast as messages make them.
    """

    def __init__(self) -> None:
        self._departures: deque[Iterator[None]] = deque()
        self._late: dict[str, tuple[KnownWorkflow[N], dict[str, None]]] = {}

    def __bool__(self) -> bool:
        return bool(self._departures or self._late)

    def depart(self, steps: Iterator[None]) -> None:
        """Agents are remembered no more; each step gives the claims of one up."""
        self._departures.append(steps)

    def postpone(self, workflow: KnownWorkflow[N], names: Iterable[str]) -> None:
        """These agents of a workflow are to be looked at, as things are by then."""
        waiting = self._late.setdefault(workflow.name, (workflow, {}))[1]
        waiting.update(dict.fromkeys(names))
        if not waiting:
            del self._late[workflow.name]

    def drop(self, workflow: str) -> None:
        """A workflow is no longer known: nobody of it is looked at."""
        self._late.pop(workflow, None)

    def is_late(self, workflow: str, agent: str) -> bool:
        """Whether an agent is still to be looked at."""
        return workflow in self._late and agent in self._late[workflow][1]

    def see_off(self, most: int) -> int:
        """Take so many steps at most of those who have gone; how many there were."""
        taken = 0
        while taken < most and self._departures:
            if next(self._departures[0], self) is self:
                self._departures.popleft()
            else:
                taken += 1
        return taken

    def pop_late(self, most: int) -> Iterator[tuple[KnownWorkflow[N], list[str]]]:
        """The agents that have waited longest, so many at most, by workflow."""
        while most > 0 and self._late:
            name, (workflow, waiting) = next(iter(self._late.items()))
            taken = list(islice(waiting, most))
            for each in taken:
                del waiting[each]
            if not waiting:
                del self._late[name]
            most -= len(taken)
            yield workflow, taken
