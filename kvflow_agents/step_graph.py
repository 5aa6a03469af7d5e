"""The Agent Step Graph: which agents have to run before which (KVFlow, section 3.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Join:
    """`target` can run once all `sources` have: one source is a plain edge, more an AND join."""

    sources: frozenset[str]
    target: str


_Joins: TypeAlias = dict[str, list[Join]]
"""The joins at each node. Graphs share lists: none is changed once its graph is made."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """Steps-to-execution from one front, nearest agents first.

    `is_closed` is False when an open agent lies ahead or the walk stopped early: an agent without
    steps may then still run, where otherwise it never runs again.
    """

    steps: dict[str, int]
    is_closed: bool


class StepGraph:
    """An immutable graph of agents; several joins into one target are alternatives (OR).

    A *passive* node stands for structure (a graph's start or end) and takes no step. An *open*
    agent may be followed by agents that no join names: as long as none of its successors is
    known, by any.
    """

    def __init__(
        self,
        joins: Iterable[Join] = (),
        *,
        agents: Iterable[str] = (),
        passive: Iterable[str] = (),
        open_agents: Iterable[str] = (),
    ) -> None:
        self.joins = tuple(dict.fromkeys(joins))
        self.passive = frozenset(passive)
        self.open_agents = frozenset(open_agents)
        named = [name for join in self.joins for name in (*sorted(join.sources), join.target)]
        every_node = dict.fromkeys([*agents, *named, *sorted(self.open_agents)])
        self.agents = tuple(name for name in every_node if name not in self.passive)
        self._joins_from: _Joins = {}
        self._and_joins_from: _Joins = {}
        self._joins_into: _Joins = {}
        for join in self.joins:
            self._joins_into.setdefault(join.target, []).append(join)
            for source in join.sources:
                self._joins_from.setdefault(source, []).append(join)
                if len(join.sources) > 1:
                    self._and_joins_from.setdefault(source, []).append(join)

    def joins_from(self, source: str) -> Collection[Join]:
        """The joins that `source` takes part in."""
        return self._joins_from.get(source, ())

    def and_joins_from(self, source: str) -> Collection[Join]:
        """Those of them that wait for others, too."""
        return self._and_joins_from.get(source, ())

    def joins_into(self, target: str) -> Collection[Join]:
        """The alternatives that lead to `target`."""
        return self._joins_into.get(target, ())

    def with_edges(self, edges: Iterable[tuple[str, str]]) -> StepGraph:
        """This graph with (source, target) edges added."""
        return self.including(StepGraph(Join(frozenset({source}), to) for source, to in edges))

    def including(self, other: StepGraph) -> StepGraph:
        """This graph and another one, joined where they name the same nodes.

        Costs a copy of this graph's tables, and what is new.
        """
        new = [join for join in other.joins if join not in self.joins_into(join.target)]
        added = other if len(new) == len(other.joins) else StepGraph(new)
        graph = copy(self)
        graph.joins = (*self.joins, *new)
        graph.passive = self.passive | other.passive
        graph.open_agents = self.open_agents | other.open_agents
        every_node = dict.fromkeys((*self.agents, *other.agents))
        graph.agents = tuple(name for name in every_node if name not in graph.passive)
        graph._joins_from = _merged(self._joins_from, added._joins_from)
        graph._and_joins_from = _merged(self._and_joins_from, added._and_joins_from)
        graph._joins_into = _merged(self._joins_into, added._joins_into)
        return graph

    def fingerprint(self) -> str:
        """A name for this structure, equal in every process: 32 hexadecimal digits."""
        lines = [f"{sorted(join.sources)}>{join.target}" for join in self.joins]
        lines += [f"agent {name}" for name in self.agents]
        lines += [f"open {name}" for name in self.open_agents]
        text = "\n".join(sorted(lines)).encode("utf-8", "backslashreplace")
        return hashlib.blake2b(text, digest_size=16).hexdigest()

    def outlook(
        self,
        front: Iterable[str],
        *,
        finished: Iterable[str] = (),
        arrived: Mapping[Join, Collection[str]] | None = None,
        most_agents: int | None = None,
    ) -> Outlook:
        """Steps-to-execution of every agent that can still run.

        `front` is planned in the current step (0). `finished` have run in the current step: what
        follows them counts from it, their own next run is reported. `arrived` names the sources
        that a waiting AND join has already seen. An agent runs one step after the latest source
        of its earliest join. Costs O(joins reached); stops early at `most_agents`.
        """
        walk = _Walk(self, arrived or {}, most_agents)
        front = list(front)
        entries = [name for name in front if name in self.passive]
        agents = [name for name in front if name not in self.passive]
        walk.steps.update(dict.fromkeys(agents, 0))
        # What a planned passive node (a start) leads to runs in the current step: level -1 + 1.
        level = walk.fire(entries, -1)
        level += [*agents, *finished]
        depth = 0
        while level and not walk.is_full:
            level = walk.fire(level, depth)
            depth += 1
        return Outlook(walk.steps, walk.is_closed and not level)


def _merged(joins: _Joins, others: _Joins) -> _Joins:
    return joins | {node: [*joins.get(node, ()), *new] for node, new in others.items()}


class _Walk:
    """One breadth-first walk; a join fires when the last of its sources does."""

    def __init__(
        self, graph: StepGraph, arrived: Mapping[Join, Collection[str]], most_agents: int | None
    ) -> None:
        self.graph = graph
        self.arrived = arrived
        self.most_agents = most_agents
        self.steps: dict[str, int] = {}
        self.is_closed = True
        self._fired: set[str] = set()
        self._waiting_for: dict[Join, int] = {}

    @property
    def is_full(self) -> bool:
        return self.most_agents is not None and len(self.steps) >= self.most_agents

    def fire(self, level: list[str], depth: int) -> list[str]:
        """Let the nodes of one level run; return the agents that can run in the next one."""
        next_level: list[str] = []
        for name in level:  # grows while it is read: a passive node runs at once
            if name in self._fired:
                continue
            self._fired.add(name)
            for target in self._targets(name):
                if target in self.graph.passive:
                    level.append(target)
                elif target not in self.steps:
                    self.steps[target] = depth + 1
                    next_level.append(target)
        return next_level

    def _targets(self, name: str) -> Iterable[str]:
        joins = self.graph.joins_from(name)
        if name in self.graph.open_agents:
            self.is_closed = False
            if not joins:
                return self.graph.agents
        return [
            join.target for join in joins if len(join.sources) == 1 or self._completes(join, name)
        ]

    def _completes(self, join: Join, source: str) -> bool:
        seen = self.arrived.get(join, ())
        if source in seen:
            return False
        missing = self._waiting_for.get(join, len(join.sources) - len(seen)) - 1
        self._waiting_for[join] = missing
        return missing == 0
