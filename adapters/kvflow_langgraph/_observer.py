"""The observer: turns what LangGraph does into plans of workflows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from kvflow_agents import App, Carrier, StepGraph, agent_name
from kvflow_agents.apps import Apps
from kvflow_agents.runs import Caller, Run, Runs, conversation_name
from kvflow_agents.scopes import START
from kvflow_langgraph import _internals as internals
from kvflow_langgraph._internals import Loop, LoopTask
from kvflow_langgraph._scopes import Scopes
from kvflow_langgraph._structure import Path, inner_path, structure_of

_agent_name = lru_cache(maxsize=8192)(agent_name)

Subscribers = Callable[[Loop, Any], Collection[Carrier]]
"""The carriers that want a root loop's run hinted, given the loop and its graph."""


@dataclass(eq=False)
class Scope:
    """One loop's place in its run. Holds its step's tasks, and is held by the loop only."""

    run: Run
    name: str
    key: str
    path: Path
    tasks: dict[str, Task] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Task:
    """A node's execution: planned or at work."""

    scope: Scope
    path: Path
    agent: str


class Observer:
    """Follows every loop that somebody subscribes to.

    Loops hold their scopes, scopes their tasks, and tasks their run: when a loop is gone, however
    it went, nothing of it is left here.
    """

    def __init__(self, subscribers: Subscribers) -> None:
        self._subscribers = subscribers
        self._apps = Apps(structure_of)
        self._inner_scopes = Scopes()
        self._runs = Runs()
        self._scopes: WeakKeyDictionary[Loop, Scope | None] = WeakKeyDictionary()
        self._tasks: WeakValueDictionary[str, Task] = WeakValueDictionary()
        self._keys = itertools.count(1)

    def planned(self, loop: Loop) -> None:
        """A loop has planned a superstep, none of which has started."""
        scope = self._scope_of(loop)
        if scope is None:
            return
        scope.tasks = {}
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
        known = self._tasks.get(task.id)
        if known is not None:
            scope = known.scope
            scope.run.workflow.finish(scope.name, known.agent, run=scope.key)

    def left(self, loop: Loop) -> None:
        """A loop is over."""
        scope = self._scopes.pop(loop, None)
        if scope is None:
            return
        scope.tasks = {}  # tasks hold their scope
        if scope.key:
            scope.run.workflow.leave(scope.name, run=scope.key)
        else:
            self._runs.end(scope.run, resumable=internals.is_resumable(loop))

    def caller(self) -> Caller | None:
        """Who is calling, from the context of the call."""
        task = self._first(internals.tasks_around_call())
        return None if task is None else Caller(task.scope.run, task.agent)

    def _scope_of(self, loop: Loop) -> Scope | None:
        scope = self._scopes.get(loop)
        if scope is None and loop not in self._scopes:
            scope = self._scopes[loop] = self._enter(loop)
        return scope

    def _enter(self, loop: Loop) -> Scope | None:
        # A graph that a node runs on a thread of its own is a root to LangGraph, not to us.
        around = internals.tasks_around(loop) or internals.tasks_around_call()
        holder = self._first(around)
        graph = internals.graph_of(loop)
        if holder is not None:
            return self._enter_inner(holder, graph)
        carriers = self._subscribers(loop, graph)
        if not carriers:
            return None
        app = App(StepGraph()) if graph is None else self._apps.of(graph)
        thread = internals.thread_of(loop)
        name = conversation_name(thread, app) if thread else internals.run_id_of(loop)
        run = self._runs.begin(name, app, carriers)
        return Scope(run, name="", key="", path=())

    def _enter_inner(self, holder: Task, graph: Any | None) -> Scope:
        run, path, name = holder.scope.run, holder.path, holder.agent
        if graph is not None:
            name = self._inner_scopes.of(run.workflow.app, path, graph)
            path = inner_path(path, graph)
        return Scope(run, name, key=str(next(self._keys)), path=path)

    def _add(self, scope: Scope, task: LoopTask) -> Task:
        path = (*scope.path, task.name)
        known = Task(scope, path, _agent_name(path))
        scope.tasks[task.id] = known
        self._tasks[task.id] = known
        return known

    def _first(self, ids: Iterable[str]) -> Task | None:
        for id in ids:
            task = self._tasks.get(id)
            if task is not None:
                return task
        return None
