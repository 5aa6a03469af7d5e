"""Delays through the step graph: when agents are due, from how long the turns before them take."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from kvflow_agents.delays import NOW, Delay, earliest, latest, then
from kvflow_agents.forecast import Steps
from kvflow_agents.step_graph import Join, StepGraph

# What lies further ahead is not worth its time: each agent costs some 20 us, and each join.
MAX_AGENTS_AHEAD = 24


def delays_ahead(
    graph: StepGraph,
    steps: Steps,
    turn: Callable[[str], Delay | None],
    *,
    finished: Iterable[str] = (),
    arrived: Mapping[Join, Collection[str]] | None = None,
) -> dict[str, Delay]:
    """When the agents of an outlook begin, counted from now, nearest agents first.

    `turn` is how long an agent is at work, None if unknown: then what only it leads to is left
    out. Those with 0 steps begin now. An AND join waits for its latest source, a target begins
    with its earliest join, be it certain that this one is taken or not. Turns are taken as
    independent of each other. Costs O(joins into the nearest `MAX_AGENTS_AHEAD` agents).
    """
    ahead = _Ahead(graph, turn, arrived or {}, finished)
    near = sorted((count, agent) for agent, count in steps.items() if count is not None)
    for count, agent in near[:MAX_AGENTS_AHEAD]:
        ahead.begin(agent, NOW if count == 0 else ahead.arrival(agent, frozenset()))
    return {agent: delay for agent, delay in ahead.begins.items() if steps[agent] != 0}


class _Ahead:
    def __init__(
        self,
        graph: StepGraph,
        turn: Callable[[str], Delay | None],
        arrived: Mapping[Join, Collection[str]],
        finished: Iterable[str],
    ) -> None:
        self.begins: dict[str, Delay] = {}
        self._graph = graph
        self._turn = turn
        self._arrived = arrived
        self._ends: dict[str, Delay] = dict.fromkeys(finished, NOW)

    def begin(self, agent: str, delay: Delay | None) -> None:
        if delay is not None:
            self.begins[agent] = delay
            turn = self._turn(agent)
            if turn is not None and agent not in self._ends:
                self._ends[agent] = then(delay, turn)

    def arrival(self, target: str, inside: frozenset[str]) -> Delay | None:
        """When the earliest join fires whose sources are all known."""
        fired = [self._fires(join, inside | {target}) for join in self._graph.joins_into(target)]
        known = [delay for delay in fired if delay is not None]
        return earliest(known) if known else None

    def _fires(self, join: Join, inside: frozenset[str]) -> Delay | None:
        waiting = sorted(join.sources.difference(self._arrived.get(join, ())))
        ends = [self._end(source, inside) for source in waiting]
        known = [delay for delay in ends if delay is not None]
        return latest(known) if known and len(known) == len(ends) else None

    def _end(self, source: str, inside: frozenset[str]) -> Delay | None:
        if source in self._graph.passive and source not in inside:
            return self.arrival(source, inside)
        return self._ends.get(source)
