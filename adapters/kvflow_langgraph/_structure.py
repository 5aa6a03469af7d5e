"""The static step graph of a compiled graph: a prior that its runs add to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from kvflow_agents import Join, StepGraph, agent_name
from kvflow_agents.scopes import END, START, end_of, start_of

Path = tuple[str, ...]

# Graphs that share subgraphs can unfold exponentially; past this many agents a subgraph stays
# folded, and what runs in it is learned.
MAX_UNFOLDED_AGENTS = 200_000


def structure_of(graph: Any, path: Path = (), scope: str = "") -> StepGraph:
    """What a compiled graph says about who follows whom; linear in its nodes and edges.

    Its agents are named below `path`, its start and end are those of `scope`.
    """
    reader = _Reader()
    reader.read(graph, path, scope)
    return StepGraph(
        reader.joins,
        agents=reader.agents,
        passive=reader.passive,
        open_agents=reader.open_agents,
    )


def inner_path(holder: Path, graph: Any) -> Path:
    """Where the agents of a graph live that the node at `holder` runs.

    `create_agent(name=...)` names its graph: agents that one node runs in turn differ in that.
    """
    label = _label(graph)
    return (*holder, label) if label and holder[-1:] != (label,) else holder


class _Reader:
    """Collects the joins of a graph and of the graphs inside it."""

    def __init__(self) -> None:
        self.joins: list[Join] = []
        self.agents: list[str] = []
        self.passive: list[str] = []
        self.open_agents: list[str] = []
        self._unfolding: list[int] = []

    def read(self, graph: Any, path: Path, scope: str) -> None:
        self._unfolding.append(id(graph))
        self.passive += [start_of(scope), end_of(scope)]
        names = _Names(scope)
        for node in graph.nodes:
            if node != START:
                self._read_node(graph, (*path, node), names)
        builder = getattr(graph, "builder", None)
        if builder is None:
            self._read_unstructured(names, scope)
        else:
            self._read_edges(builder, names)
        self._unfolding.pop()

    def _read_node(self, graph: Any, path: Path, names: _Names) -> None:
        agent = agent_name(path)
        inner = _held_graph(graph, path[-1])
        if inner is None or id(inner) in self._unfolding or self._is_full():
            names.add(path[-1], agent, agent)
            self.agents.append(agent)
        else:
            names.add(path[-1], start_of(agent), end_of(agent))
            self.read(inner, inner_path(path, inner), agent)

    def _is_full(self) -> bool:
        return len(self.agents) >= MAX_UNFOLDED_AGENTS

    def _read_edges(self, builder: Any, names: _Names) -> None:
        for sources, target in _edges(builder):
            if target in names.entries and all(source in names.exits for source in sources):
                ends = frozenset(names.exits[source] for source in sources)
                self.joins.append(Join(ends, names.entries[target]))
        self.open_agents += [
            names.exits[node]
            for node, branches in builder.branches.items()
            if node in names.exits and any(branch.ends is None for branch in branches.values())
        ]

    def _read_unstructured(self, names: _Names, scope: str) -> None:
        """A graph of the functional API calls its tasks from code: anyone may follow."""
        for node, entry in names.entries.items():
            if node not in (START, END):
                self.joins.append(Join(frozenset({start_of(scope)}), entry))
                self.open_agents.append(names.exits[node])
                if scope:
                    self.joins.append(Join(frozenset({names.exits[node]}), end_of(scope)))


class _Names:
    """Names of one graph's nodes in the step graph: where each begins and where it ends."""

    def __init__(self, scope: str) -> None:
        self.entries = {END: end_of(scope)}
        self.exits = {START: start_of(scope)}

    def add(self, node: str, entry: str, exit: str) -> None:
        self.entries[node] = entry
        self.exits[node] = exit


def _edges(builder: Any) -> Iterator[tuple[Iterable[str], str]]:
    """All (sources, target) that the builder of a `StateGraph` knows."""
    # `edges` is a set; sorted, the same graph gives the same order in every process.
    for source, target in sorted(builder.edges):
        yield (source,), target
    for sources, target in sorted(builder.waiting_edges):
        yield sources, target
    for source, branches in builder.branches.items():
        for branch in branches.values():
            for target in (branch.ends or {}).values():
                yield (source,), target
    for source, spec in builder.nodes.items():
        # Of `Command[Literal[...]]` or `destinations=`, a tuple or a mapping to labels.
        for target in spec.ends or ():
            yield (source,), target
        # Since LangGraph 1.2.
        if handler := getattr(spec, "error_handler_node", None):
            yield (source,), handler


def _held_graph(graph: Any, node: str) -> Any | None:
    """The compiled graph that a node is, or holds in its closure. A remote one has no nodes."""
    held = graph.nodes[node].subgraphs
    return held[0] if held and hasattr(held[0], "nodes") else None


def _label(graph: Any) -> str | None:
    metadata = (getattr(graph, "config", None) or {}).get("metadata") or {}
    label = metadata.get("lc_agent_name")
    return label if isinstance(label, str) else None
