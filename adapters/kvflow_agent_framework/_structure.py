"""The static step graph of a workflow: a prior that its runs add to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvflow_agent_framework import _internals as internals
from kvflow_agent_framework._internals import Agent, Workflow
from kvflow_agents import Join, StepGraph, agent_name
from kvflow_agents.scopes import end_of, start_of

Path = tuple[str, ...]


def structure_of(subject: Workflow | Agent, path: Path = (), scope: str = "") -> StepGraph:
    """What a workflow, or one agent, says about who follows whom.

    Its agents are named below `path`, its start and end are those of `scope`.
    """
    reader = _Reader()
    if internals.is_workflow(subject):
        reader.read(subject, path, scope)
    else:
        name = agent_name((*path, internals.name_of(subject)))
        reader.passive += [start_of(scope), end_of(scope)]
        reader.add([start_of(scope)], name)
        reader.add([name], end_of(scope))
    return StepGraph(reader.joins, agents=reader.agents, passive=reader.passive)


@dataclass(frozen=True, slots=True)
class _Member:
    """An executor's place in the step graph: where it begins and where it ends."""

    entry: str
    exit: str


class _Reader:
    """Collects the joins of a workflow and of the workflows inside it."""

    def __init__(self) -> None:
        self.joins: list[Join] = []
        self.agents: list[str] = []
        self.passive: list[str] = []
        self._reading: list[int] = []

    def add(self, sources: list[str], target: str) -> None:
        self.joins.append(Join(frozenset(sources), target))

    def read(self, workflow: Workflow, path: Path, scope: str) -> None:
        self._reading.append(id(workflow))
        self.passive += [start_of(scope), end_of(scope)]
        members = {
            name: self._read_executor(executor, (*path, name))
            for name, executor in internals.executors_of(workflow).items()
        }
        self.add([start_of(scope)], members[internals.start_of(workflow)].entry)
        self._read_edges(workflow, members, scope)
        self._reading.pop()

    def _read_executor(self, executor: internals.Executor, path: Path) -> _Member:
        name = agent_name(path)
        inner = internals.workflow_inside(executor)
        if inner is None or id(inner) in self._reading:
            self.agents.append(name)
            return _Member(name, name)
        self.read(inner, path, name)
        return _Member(start_of(name), end_of(name))

    def _read_edges(self, workflow: Workflow, members: Mapping[str, _Member], scope: str) -> None:
        last = dict.fromkeys(members)
        for edges in internals.edges_of(workflow):
            if not members.keys() >= {*edges.sources, *edges.targets}:
                continue
            exits = [members[source].exit for source in edges.sources]
            for target in edges.targets:
                if edges.is_join:
                    self.add(exits, members[target].entry)
                else:
                    for exit in exits:
                        self.add([exit], members[target].entry)
            if edges.is_certain:
                for source in edges.sources:
                    last.pop(source, None)
        # Whoever need not pass anything on may be the last; in a circle, anyone.
        for name in last or members:
            self.add([members[name].exit], end_of(scope))
