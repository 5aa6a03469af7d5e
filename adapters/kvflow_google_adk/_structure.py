"""The static step graph of an agent and all below it: a prior that its runs add to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kvflow_agents import Join, StepGraph, agent_name
from kvflow_agents.scopes import end_of, start_of
from kvflow_google_adk import _internals as internals
from kvflow_google_adk._internals import Node, Runner

Path = tuple[str, ...]


def structure_of(runner: Runner, path: Path = (), scope: str = "") -> StepGraph:
    """What a runner's agents say about who follows whom.

    They are named below `path`, by their names alone: ADK wants those to differ in one tree. Start
    and end are those of `scope`.
    """
    reader = _Reader(path)
    root = reader.read(internals.root_of(runner))
    reader.joins += [_edge(start_of(scope), root.entry), _edge(root.exit, end_of(scope))]
    passive = [start_of(scope), end_of(scope), *reader.passive]
    return StepGraph(reader.joins, agents=reader.agents, passive=passive)


def first_agents(node: Node) -> Iterator[str]:
    """The agents that call the model first when a node runs."""
    if internals.is_sequence(node):
        for agent in internals.sub_agents_of(node)[:1]:
            yield from first_agents(agent)
    elif internals.is_parallel(node):
        for agent in internals.sub_agents_of(node):
            yield from first_agents(agent)
    elif internals.is_agent(node):
        yield str(node.name)


@dataclass(frozen=True, slots=True)
class Member:
    """A node's place in the step graph: where it begins and where it ends."""

    entry: str
    exit: str


class _Reader:
    """Collects the joins of a tree of agents."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.joins: list[Join] = []
        self.agents: list[str] = []
        self.passive: list[str] = []

    def read(self, node: Node) -> Member:
        name = agent_name((*self._path, str(node.name)))
        shell = Member(start_of(name), end_of(name))
        if internals.is_workflow(node):
            self._read_workflow(node, shell)
        elif internals.is_sequence(node):
            self._read_sequence(node, shell)
        elif internals.is_parallel(node):
            self._read_parallel(node, shell)
        elif internals.is_agent(node):
            return self._read_agent(node, name)
        else:  # a function, a tool, the start of a graph: it takes no step
            self.passive.append(shell.entry)
            return Member(shell.entry, shell.entry)
        self.passive += [shell.entry, shell.exit]
        return shell

    def _read_agent(self, agent: Node, name: str) -> Member:
        self.agents.append(name)
        below = internals.sub_agents_of(agent)
        if not below:
            return Member(name, name)
        end = end_of(name)
        self.passive.append(end)
        members = [self.read(each) for each in below]
        self.joins += [_edge(name, end), *(_edge(name, each.entry) for each in members)]
        for each, member in zip(below, members, strict=True):
            self.joins.append(_edge(member.exit, end))
            if internals.can_go_back(each):
                self.joins.append(_edge(member.exit, name))
            if internals.can_go_beside(each):
                beside = (other for other in members if other is not member)
                self.joins += [_edge(member.exit, other.entry) for other in beside]
        return Member(name, end)

    def _read_sequence(self, agent: Node, shell: Member) -> None:
        members = [self.read(each) for each in internals.sub_agents_of(agent)]
        if not members:
            self.joins.append(_edge(shell.entry, shell.exit))
            return
        self.joins.append(_edge(shell.entry, members[0].entry))
        self.joins += [_edge(one.exit, other.entry) for one, other in pairwise(members)]
        self.joins.append(_edge(members[-1].exit, shell.exit))
        if internals.is_loop(agent):
            self.joins.append(_edge(members[-1].exit, members[0].entry))

    def _read_parallel(self, agent: Node, shell: Member) -> None:
        members = [self.read(each) for each in internals.sub_agents_of(agent)]
        self.joins += [_edge(shell.entry, each.entry) for each in members]
        ends = frozenset(each.exit for each in members) or frozenset({shell.entry})
        self.joins.append(Join(ends, shell.exit))

    def _read_workflow(self, workflow: Node, shell: Member) -> None:
        edges = internals.edges_of(workflow)
        nodes = {id(node): node for edge in edges for node in edge}
        members = {key: self.read(node) for key, node in nodes.items()}
        for key, node in nodes.items():
            sources = [members[id(source)].exit for source, target in edges if target is node]
            self.joins += _into(members[key].entry, sources, internals.is_join(node))
            if not sources:
                self.joins.append(_edge(shell.entry, members[key].entry))
            if not any(source is node for source, _ in edges):
                self.joins.append(_edge(members[key].exit, shell.exit))


def _into(entry: str, sources: Sequence[str], needs_all: bool) -> list[Join]:
    if needs_all and sources:
        return [Join(frozenset(sources), entry)]
    return [_edge(source, entry) for source in sources]


def _edge(source: str, target: str) -> Join:
    return Join(frozenset({source}), target)
