"""The observer: turns what LangGraph does into plans of workflows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

from kvflow_agents import App, Carrier, StepGraph, agent_name
from kvflow_agents.apps import Apps
from kvflow_agents.runs import Caller, Run, Runs, conversation_name
from kvflow_agents.scopes import START
from kvflow_langgraph import _internals as internals
from kvflow_langgraph._internals import Loop, LoopTask
from kvflow_langgraph._scopes import Scopes
from kvflow_langgraph._structure import Path, inner_path, structure_of

Subscribers = Callable[[Loop, Any], Collection[Carrier]]
"""The carriers that want a root loop's run hinted, given the loop and its graph."""


class Node(NamedTuple):
    """A node of an application, planned or at work."""

    path: Path
    agent: str


@lru_cache(maxsize=8192)
def _node(path: Path) -> Node:
    return Node(path, agent_name(path))


@dataclass(eq=False)
class Scope:
    """One loop's place in its run, held by the loop only."""

    run: Run
    name: str
    key: str
    path: Path
    tasks: dict[str, Node] = field(default_factory=dict)
    """The tasks of its step by id: what each runs."""
    reference: ref[Scope] = field(init=False)


class Observer:
    """Follows every loop that somebody subscribes to.

    Loops hold their scopes, and scopes their tasks and their run: when a loop is gone, however it
    went, nothing of it is left here.
    """

    def __init__(self, subscribers: Subscribers) -> None:
        self._subscribers = subscribers
        self._apps = Apps(structure_of)
        self._inner_scopes = Scopes()
        self._runs = Runs()
        self._scopes: WeakKeyDictionary[Loop, Scope | None] = WeakKeyDictionary()
        # Of the scope that a task is in. A weak dictionary would make one for each task.
        self._tasks: dict[str, ref[Scope]] = {}
        self._keys = itertools.count(1)

    def planned(self, loop: Loop) -> None:
        """A loop has planned a superstep, none of which has started."""
        scope = self._scope_of(loop)
        if scope is None:
            return
        self._forget(scope.tasks)
        tasks = internals.tasks_of(loop)
        known = [self._add(scope, task) for task in tasks]
        # LangGraph takes a graph's input in a step of its own. The start of an inner graph is in
        # the plan already: as what its holder runs.
        agents = [task.agent for task in known if task.path[-1] != START or not scope.key]
        if agents:
            scope.run.workflow.plan(scope.name, agents, run=scope.key)
        for task in filter(internals.has_run, tasks):
            self.finished(task)

    def pushed(self, loop: Loop, task: LoopTask | None) -> None:
        """A task has joined a loop's superstep; None if it was not accepted."""
        scope = self._scopes.get(loop)
        if scope is None or task is None or internals.has_run(task):
            return
        scope.run.workflow.push(scope.name, self._add(scope, task).agent, run=scope.key)

    def finished(self, task: LoopTask) -> None:
        """A task has run."""
        found = self._find((task.id,))
        if found is not None:
            scope, node = found
            scope.run.workflow.finish(scope.name, node.agent, run=scope.key)

    def left(self, loop: Loop) -> None:
        """A loop is over."""
        scope = self._scopes.pop(loop, None)
        if scope is None:
            return
        self._forget(scope.tasks)
        if scope.key:
            scope.run.workflow.leave(scope.name, run=scope.key)
        else:
            self._runs.end(scope.run, resumable=internals.is_resumable(loop))

    def caller(self) -> Caller | None:
        """Who is calling, from the context of the call."""
        found = self._find(internals.tasks_around_call())
        return None if found is None else Caller(found[0].run, found[1].agent)

    def _scope_of(self, loop: Loop) -> Scope | None:
        scope = self._scopes.get(loop)
        if scope is None and loop not in self._scopes:
            scope = self._scopes[loop] = self._enter(loop)
            if scope is not None:
                scope.reference = ref(scope, _forgetting(scope.tasks, self._tasks))
        return scope

    def _enter(self, loop: Loop) -> Scope | None:
        # A graph that a node runs on a thread of its own is a root to LangGraph, not to us.
        around = internals.tasks_around(loop) or internals.tasks_around_call()
        holder = self._find(around)
        graph = internals.graph_of(loop)
        if holder is not None:
            return self._enter_inner(*holder, graph)
        carriers = self._subscribers(loop, graph)
        if not carriers:
            return None
        app = App(StepGraph()) if graph is None else self._apps.of(graph)
        thread = internals.thread_of(loop)
        name = conversation_name(thread, app) if thread else internals.run_id_of(loop)
        run = self._runs.begin(name, app, carriers)
        return Scope(run, name="", key="", path=())

    def _enter_inner(self, outer: Scope, holder: Node, graph: Any | None) -> Scope:
        run, path, name = outer.run, holder.path, holder.agent
        if graph is not None:
            name = self._inner_scopes.of(run.workflow.app, path, graph)
            path = inner_path(path, graph)
        return Scope(run, name, key=str(next(self._keys)), path=path)

    def _add(self, scope: Scope, task: LoopTask) -> Node:
        node = scope.tasks[task.id] = _node((*scope.path, task.name))
        self._tasks[task.id] = scope.reference
        return node

    def _find(self, ids: Iterable[str]) -> tuple[Scope, Node] | None:
        """The first of some tasks that is known, and its scope."""
        for id in ids:
            reference = self._tasks.get(id)
            scope = None if reference is None else reference()
            node = None if scope is None else scope.tasks.get(id)
            if scope is not None and node is not None:
                return scope, node
        return None

    def _forget(self, tasks: dict[str, Node]) -> None:
        for id in tasks:
            self._tasks.pop(id, None)
        tasks.clear()


def _forgetting(tasks: dict[str, Node], known: dict[str, ref[Scope]]) -> Callable[[object], None]:
    """What to do when the scope of these tasks is gone; it must not hold that scope."""

    def forget(_: object) -> None:
        for id in tasks:
            known.pop(id, None)

    return forget
