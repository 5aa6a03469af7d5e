"""The static step graph of an agent: its handoffs and the agents it uses as tools."""

from __future__ import annotations

from kvflow_agents import Join, StepGraph, agent_name
from kvflow_agents.scopes import END, START, start_of
from kvflow_openai_agents import _internals as internals
from kvflow_openai_agents._internals import Agent

Path = tuple[str, ...]


def structure_of(agent: Agent) -> StepGraph:
    """What an agent that runs start with says about who follows whom."""
    reader = _Reader()
    first = agent_name((internals.name_of(agent),))
    reader.joins.append(_edge(START, first))
    reader.passive += [START, END]
    reader.read(agent, ())
    return StepGraph(
        reader.joins,
        agents=reader.agents,
        passive=reader.passive,
        # Who uses agents as tools may also use others, in its functions.
        open_agents=reader.open_agents,
    )


def scope_in(holder: Path) -> str:
    """The scope of the agents that an agent's tools run."""
    return f"{agent_name(holder)}/*" if holder else ""


class _Reader:
    """Collects the joins of an agent and of those it can lead to."""

    def __init__(self) -> None:
        self.joins: list[Join] = []
        self.agents: list[str] = []
        self.passive: list[str] = []
        self.open_agents: list[str] = []
        self._reading: list[int] = []

    def read(self, agent: Agent, holder: Path) -> None:
        """An agent in its holder's scope, and everyone that it hands over to."""
        waiting, seen = [agent], {internals.name_of(agent)}
        while waiting:
            agent = waiting.pop()
            path = (*holder, internals.name_of(agent))
            name = agent_name(path)
            self.agents.append(name)
            for target, other in internals.handoffs_of(agent):
                self.joins.append(_edge(name, agent_name((*holder, target))))
                if other is not None and target not in seen:
                    seen.add(target)
                    waiting.append(other)
            self._read_tools(agent, path)
            if not holder:
                self.joins.append(_edge(name, END))

    def _read_tools(self, agent: Agent, path: Path) -> None:
        if id(agent) in self._reading:  # an agent that is a tool of its tools
            return
        self._reading.append(id(agent))
        start = start_of(scope_in(path))
        for inner in internals.tool_agents_of(agent):
            if start not in self.passive:
                self.passive.append(start)
                self.open_agents.append(start)
                self.joins.append(_edge(agent_name(path), start))
            self.joins.append(_edge(start, agent_name((*path, internals.name_of(inner)))))
            self.read(inner, path)
        self._reading.pop()


def _edge(source: str, target: str) -> Join:
    return Join(frozenset({source}), target)
