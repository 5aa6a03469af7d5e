"""Graphs that run inside a run: where each stands in the structure of its app."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

from kvflow_agents import App, StepGraph, agent_name
from kvflow_langgraph._structure import Path, inner_path, structure_of

MAX_SCOPES = 256


class Scopes:
    """Finds the scope of a graph that a node runs; the app gets to know it."""

    def __init__(self) -> None:
        self._of_graph: WeakKeyDictionary[Any, dict[tuple[str, Path], str]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def of(self, app: App, holder: Path, graph: Any) -> str:
        """The scope of a graph that the node at `holder` runs."""
        with self._lock:
            scopes = self._of_graph.setdefault(graph, {})
            if (app.name, holder) not in scopes:
                if len(scopes) >= MAX_SCOPES:
                    scopes.clear()
                scopes[app.name, holder] = _find_scope(app, holder, graph)
            scope = scopes[app.name, holder]
        if scope != agent_name(holder):
            # Each time: what leads to the holder may have been learned since the last.
            app.adopt(
                agent_name(holder),
                scope,
                lambda: structure_of(graph, inner_path(holder, graph), scope),
            )
        return scope


def _find_scope(app: App, holder: Path, graph: Any) -> str:
    """The holder's own scope if the app's structure has this graph there, else one apart."""
    agent = agent_name(holder)
    path = inner_path(holder, graph)
    if _contains(app.graph, structure_of(graph, path, agent)):
        return agent
    return f"{agent}/*{structure_of(graph, path).fingerprint()[:8]}"


def _contains(graph: StepGraph, inner: StepGraph) -> bool:
    return inner.passive <= graph.passive and all(
        join in graph.joins_into(join.target) for join in inner.joins
    )
