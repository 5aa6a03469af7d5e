"""The observer: turns what LlamaIndex does into plans of workflows."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from kvflow_agents import Carrier, agent_name
from kvflow_agents.apps import Apps
from kvflow_agents.runs import Caller, Run, Runs
from kvflow_llama_index import _internals as internals
from kvflow_llama_index._internals import Command, Runner, Tick, Workflow
from kvflow_llama_index._structure import Path, structure_of

_agent_name = lru_cache(maxsize=8192)(agent_name)


@dataclass(eq=False)
class Scope:
    """One workflow's place in its run, held by the tasks that run it."""

    run: Run
    name: str
    key: str
    path: Path
    """Where its agents stand."""
    subject: Workflow | None
    has_turns: bool
    """Whether agents take turns in it; else it is a workflow of steps."""
    goes_on: bool = False
    """Whether a later run may go on with what has been said."""
    agent: Path | None = None
    """Of an agent or a team: whose turn it is."""
    at_work: list[str] = field(default_factory=list)
    """Of a workflow of steps: what has begun and not ended, each as often as it has."""
    has_sent: bool = False
    """Whether the step that ended last has sent its events one by one."""
    is_over: bool = False


class Place(NamedTuple):
    """Where code is at work: an agent's turn, or a step."""

    scope: Scope
    path: Path

    @property
    def agent(self) -> str:
        return _agent_name(self.path)


_scope: ContextVar[Scope | None] = ContextVar("kvflow_llama_index_scope", default=None)


class Observer:
    """Follows every workflow that somebody subscribes to.

    The tasks of a run inherit the context in which it was begun: who calls is found there.
    """

    def __init__(self, subscribers: Callable[[Workflow], Collection[Carrier]]) -> None:
        self._subscribers = subscribers
        self._apps = Apps(structure_of)
        self._runs = Runs()
        self._names: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self._keys = itertools.count(1)

    def enter(self, workflow: Workflow, context: Any | None) -> Scope | None:
        """A workflow begins to run, in a context that others may have run in; None if nobody's."""
        here = self.place()
        return self._begin(workflow, context) if here is None else self._enter(here, workflow)

    @contextmanager
    def inside(self, scope: Scope | None) -> Iterator[None]:
        """What is begun in here is part of a scope."""
        if scope is None:
            yield
            return
        token = _scope.set(scope)
        try:
            yield
        finally:
            _scope.reset(token)

    def leave(self, scope: Scope) -> None:
        """A workflow is over, however it went."""
        if scope.is_over:
            return
        scope.is_over = True
        scope.subject = None  # contexts live on in timers, and would keep the workflow alive
        if scope.name:
            scope.run.workflow.leave(scope.name, run=scope.key)
        else:
            self._runs.end(scope.run, resumable=scope.goes_on)

    def begins(self, runner: Runner, command: Command) -> None:
        """A step is to begin; none that begins with it has run yet."""
        scope = self._scope_of(runner)
        if scope is None:
            return
        if scope.has_turns:
            agent = internals.agent_asked_by(command)
            if agent is not None and scope.agent != (*scope.path, agent):
                scope.agent = (*scope.path, agent)
                scope.run.workflow.plan(scope.name, [_agent_name(scope.agent)], run=scope.key)
        else:
            _begin_step(scope, internals.step_begun_by(command))

    def ticks(self, runner: Runner, tick: Tick) -> None:
        """Something has happened; what follows from it has not begun."""
        scope = self._scope_of(runner)
        if scope is None or scope.has_turns:
            return
        step = internals.step_ended_by(tick)
        if step not in scope.at_work:
            return
        scope.at_work.remove(step)
        scope.has_sent = internals.returns_nothing(tick)
        agent = _agent_name((*scope.path, step))
        scope.run.workflow.finish(scope.name, agent, run=scope.key)

    def caller(self) -> Caller | None:
        """Who is calling, from the context of the call."""
        here = self.place()
        return None if here is None else Caller(here.scope.run, here.agent)

    def place(self) -> Place | None:
        """Where the code at work is; a task that has outlived its run is nowhere."""
        scope = _scope.get()
        if scope is None or scope.is_over:
            return None
        if scope.has_turns:
            return None if scope.agent is None else Place(scope, scope.agent)
        step = internals.step_at_work()
        return None if step is None else Place(scope, (*scope.path, step))

    def _scope_of(self, runner: Runner) -> Scope | None:
        scope = _scope.get()
        is_its = scope is not None and scope.subject is internals.workflow_of(runner)
        return scope if is_its else None

    def _begin(self, workflow: Workflow, context: Any | None) -> Scope | None:
        carriers = self._subscribers(workflow)
        if not carriers:
            return None
        name = None if context is None else self._names.setdefault(context, uuid.uuid4().hex)
        run = self._runs.begin(name, self._apps.of(workflow), carriers)
        # Who brings a context can bring it again.
        return Scope(run, "", "", (), workflow, _has_turns(workflow), context is not None)

    def _enter(self, here: Place, workflow: Workflow) -> Scope:
        run, label = here.scope.run, internals.name_of(workflow)
        name = f"{here.agent}/*{label}"
        path = here.path if internals.is_agent(workflow) else (*here.path, label)
        run.workflow.app.adopt(here.agent, name, lambda: structure_of(workflow, path, name))
        return Scope(run, name, str(next(self._keys)), path, workflow, _has_turns(workflow))


def _has_turns(workflow: Workflow) -> bool:
    return internals.is_team(workflow) or internals.is_agent(workflow)


def _begin_step(scope: Scope, step: str) -> None:
    agent = _agent_name((*scope.path, step))
    # Events that a step sends arrive one by one: what the second starts belongs beside the first.
    if scope.at_work or scope.has_sent:
        scope.run.workflow.push(scope.name, agent, run=scope.key)
    else:
        scope.run.workflow.plan(scope.name, [agent], run=scope.key)
    scope.at_work.append(step)
