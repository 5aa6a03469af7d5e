"""The applications of this process: one `App` for every structure, whoever compiled it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any
from weakref import WeakKeyDictionary

from kvflow_agents import App, StepGraph, agent_name
from kvflow_agents.app import start_of
from kvflow_langgraph._structure import Path, inner_path, structure_of

MAX_APPS = 256


class Apps:
    """Finds the app of a compiled graph. Reads a graph's structure once in the graph's life.

    What is learned is kept by structure: an application that compiles its graph anew for every
    request goes on learning where it left off.
    """

    def __init__(self) -> None:
        self._of_graph: WeakKeyDictionary[Any, App] = WeakKeyDictionary()
        self._inner_scopes: WeakKeyDictionary[Any, dict[tuple[str, Path], str]] = (
            WeakKeyDictionary()
        )
        self._by_name: OrderedDict[str, App] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, graph: Any) -> App:
        """The app of a root graph."""
        with self._lock:
            app = self._of_graph.get(graph)
            if app is None:
                app = self._of_graph[graph] = self._shared(App(structure_of(graph)))
            return app

    def scope_in(self, app: App, holder: Path, graph: Any) -> str:
        """The scope of a graph that the node at `holder` runs; the app gets to know it."""
        with self._lock:
            scopes = self._inner_scopes.setdefault(graph, {})
            if (app.name, holder) not in scopes:
                if len(scopes) >= MAX_APPS:
                    scopes.clear()
                scopes[app.name, holder] = _find_scope(app, holder, graph)
            scope = scopes[app.name, holder]
        if scope != agent_name(holder):
            _adopt(app, holder, scope, graph)
        return scope

    def _shared(self, app: App) -> App:
        shared = self._by_name.setdefault(app.name, app)
        self._by_name.move_to_end(app.name)
        if len(self._by_name) > MAX_APPS:
            self._by_name.popitem(last=False)
        return shared


def _find_scope(app: App, holder: Path, graph: Any) -> str:
    """The holder's own scope if the app's structure has this graph there, else one apart."""
    agent = agent_name(holder)
    path = inner_path(holder, graph)
    if _contains(app.graph, structure_of(graph, path, agent)):
        return agent
    return f"{agent}/*{structure_of(graph, path).fingerprint()[:8]}"


def _adopt(app: App, holder: Path, scope: str, graph: Any) -> None:
    # Each time: what leads to the holder may have been learned since the last.
    start = start_of(scope)
    is_known = start in app.graph.passive
    inner = StepGraph() if is_known else structure_of(graph, inner_path(holder, graph), scope)
    app.adopt(agent_name(holder), start, inner)


def _contains(graph: StepGraph, inner: StepGraph) -> bool:
    return inner.passive <= graph.passive and all(
        join in graph.joins_into(join.target) for join in inner.joins
    )
