"""The static step graph of a crew: a prior that its runs add to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import dropwhile, takewhile
from typing import Any

from kvflow_agents import Join, StepGraph, agent_name
from kvflow_agents.scopes import end_of, start_of
from kvflow_crewai import _internals as internals
from kvflow_crewai._internals import Crew, Task

Path = tuple[str, ...]


def structure_of(crew: Crew, path: Path = (), scope: str = "") -> StepGraph:
    """What a crew says about who follows whom: by its tasks' order, or around its manager.

    Its agents are named by their roles, below `path`; its start and end are those of `scope`.
    """
    reader = _Reader(path, start_of(scope), end_of(scope))
    manager = internals.manager_of(crew)
    joins = [*reader.star(crew, manager)] if manager is not None else [*reader.line(crew)]
    agents = [reader.name(agent) for agent in internals.agents_of(crew)]
    return StepGraph(joins, agents=agents, passive=(start_of(scope), end_of(scope)))


def begin_together(tasks: Sequence[Task], task: Task) -> list[Task]:
    """The tasks that are begun with one, none of which waits for another."""
    if not internals.runs_beside(task):
        return [task]
    # By identity: tasks that are compared compare all that they hold.
    from_here = dropwhile(lambda each: each is not task, tasks)
    return list(takewhile(internals.runs_beside, from_here)) or [task]


class _Reader:
    """Draws the joins of one crew."""

    def __init__(self, path: Path, start: str, end: str) -> None:
        self._path = path
        self._start = start
        self._end = end

    def name(self, agent: Any) -> str:
        return agent_name((*self._path, internals.name_of(agent)))

    def star(self, crew: Crew, manager: Any) -> Iterator[Join]:
        """All tasks are the manager's, who delegates them."""
        hub = self.name(manager)
        yield from (_edge(self._start, hub), _edge(hub, hub), _edge(hub, self._end))
        for agent in internals.agents_of(crew):
            yield from self._both_ways(hub, self.name(agent))

    def line(self, crew: Crew) -> Iterator[Join]:
        """Tasks in order; those that run beside others begin together, and are waited for."""
        last: list[frozenset[str]] = [frozenset({self._start})]
        beside: set[str] = set()
        for task in internals.tasks_of(crew):
            agent = internals.agent_of(task)
            if agent is None:
                continue
            name = self.name(agent)
            if internals.runs_beside(task):
                yield from (Join(sources, name) for sources in last)
                beside.add(name)
                continue
            before = [frozenset(beside)] if beside else last
            beside = set()
            yield from (Join(sources, name) for sources in before)
            is_sure = not internals.can_be_skipped(task)
            last = [frozenset({name})] if is_sure else [*before, frozenset({name})]
        yield from (
            Join(sources, self._end) for sources in ([frozenset(beside)] if beside else last)
        )
        yield from self._delegations(crew)

    def _delegations(self, crew: Crew) -> Iterator[Join]:
        agents = internals.agents_of(crew)
        for agent in agents:
            if internals.can_delegate(agent):
                for other in agents:
                    if other is not agent:
                        yield from self._both_ways(self.name(agent), self.name(other))

    def _both_ways(self, one: str, other: str) -> Iterator[Join]:
        yield from (_edge(one, other), _edge(other, one))


def _edge(source: str, target: str) -> Join:
    return Join(frozenset({source}), target)
