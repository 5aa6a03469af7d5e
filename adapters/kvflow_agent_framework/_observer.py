"""The observer: turns what Agent Framework does into plans of workflows."""

from __future__ import annotations

import itertools
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from kvflow_agent_framework import _internals as internals
from kvflow_agent_framework._internals import Agent, Context, Executor, Workflow
from kvflow_agent_framework._structure import Path, structure_of
from kvflow_agents import Carrier, agent_name, turns
from kvflow_agents.apps import Apps
from kvflow_agents.endings import Endings
from kvflow_agents.identity_map import IdentityMap
from kvflow_agents.runs import Caller, Run, Runs, conversation_name

_agent_name = lru_cache(maxsize=8192)(agent_name)


@dataclass(eq=False)
class Scope:
    """One workflow's, or one agent's, place in its run."""

    run: Run
    name: str
    key: str
    path: Path
    is_workflow: bool
    certain_targets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    goes_on: bool = False
    """Whether its holder still has a turn in it when it is over, or its caller keeps it."""
    is_over: bool = False


class Place(NamedTuple):
    """Where code is at work: in an executor, or in an agent's run."""

    scope: Scope
    path: Path
    agent: str
    subject: Executor | Agent


@dataclass(eq=False)
class Conversation:
    """What is remembered of a workflow between its runs: its agents keep their sessions."""

    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    last_run: Run | None = None


_place: ContextVar[Place | None] = ContextVar("kvflow_agent_framework_place", default=None)


class Observer:
    """Follows every workflow and agent that somebody subscribes to."""

    def __init__(self, subscribers: Callable[[Workflow | Agent], Collection[Carrier]]) -> None:
        self._subscribers = subscribers
        self._apps = Apps(structure_of)
        self._runs = Runs()
        self._scopes: IdentityMap[Scope] = IdentityMap()
        self._conversations: IdentityMap[Conversation] = IdentityMap()
        self._collected: deque[Conversation] = deque()
        self._keys = itertools.count(1)
        self.endings = Endings(self._runs)

    def enter_workflow(self, workflow: Workflow) -> Scope | None:
        """A workflow begins to run; None if nobody wants to know."""
        here = self._here()
        scope = self._begin(workflow) if here is None else self._enter(here, workflow)
        if scope is not None:
            scope.certain_targets = internals.certain_targets_of(workflow)
            self._scopes[internals.context_of(workflow)] = scope
        return scope

    def enter_agent(self, agent: Agent, messages: Any, options: Mapping[str, Any]) -> Place | None:
        """An agent begins to run; None if it is its executor's turn, or nobody's."""
        here = self._here()
        if here is not None and (here.subject is agent or internals.holds(here.subject, agent)):
            return None
        if here is None:
            scope = self._begin_agent(agent, messages, options)
        else:
            scope = self._enter(here, agent)
        if scope is None:
            return None
        path = scope.path if scope.name else (internals.name_of(agent),)
        place = Place(scope, path, _agent_name(path), agent)
        scope.run.workflow.plan(scope.name, [place.agent], run=scope.key)
        return place

    def leave_workflow(self, workflow: Workflow, scope: Scope) -> None:
        """A workflow is over, however it went."""
        context = internals.context_of(workflow)
        if self._scopes.get(context) is scope:
            self._scopes.pop(context)
        self.leave(scope)

    def leave(self, scope: Scope, result: object | None = None) -> None:
        """What ran in a scope is over, however it went. Once more changes nothing."""
        if scope.is_over:
            return
        scope.is_over = True
        if scope.name:
            if not scope.goes_on:
                scope.run.workflow.leave(scope.name, run=scope.key)
        elif scope.is_workflow:
            self._runs.end(scope.run, resumable=True)
        else:
            self.endings.end(scope.run, result, goes_on=scope.goes_on)

    def drained(self, context: Context, batches: Mapping[str, Sequence[Any]]) -> None:
        """The messages of a superstep are known; none has been delivered."""
        scope = self._scope_of(context)
        if scope is None:
            return
        asked = dict.fromkeys(internals.targets_asked(scope.certain_targets, batches))
        if asked:
            agents = [_agent_name((*scope.path, target)) for target in asked]
            scope.run.workflow.plan(scope.name, agents, run=scope.key)

    def begin(self, executor: Executor, message: Any, context: Context) -> Place | None:
        """An executor is about to handle a message."""
        scope = self._scope_of(context)
        if scope is None:
            return None
        path = (*scope.path, internals.id_of(executor))
        place = Place(scope, path, _agent_name(path), executor)
        if internals.asks(message):
            scope.run.workflow.join_once(scope.name, place.agent, run=scope.key)
        return place

    def finish(self, place: Place, message: Any) -> None:
        """An executor has handled a message."""
        if internals.asks(message):
            scope = place.scope
            scope.run.workflow.finish(scope.name, place.agent, run=scope.key)

    def caller(self) -> Caller | None:
        """Who is calling."""
        here = self._here()
        return None if here is None else Caller(here.scope.run, here.agent)

    @contextmanager
    def at(self, place: Place | None) -> Iterator[None]:
        """The code inside is in a place."""
        if place is None:
            yield
            return
        token = _place.set(place)
        try:
            yield
        finally:
            turns.give_back(token)

    def close_collected(self) -> None:
        """Tell the ends of workflows, and of agents' results, that are gone."""
        self.endings.close_collected()
        while self._collected:
            run = self._collected.popleft().last_run
            if run is not None:
                run.end(resumable=False)

    def _here(self) -> Place | None:
        """Where the code at work is; a task that has outlived its run is nowhere."""
        here = _place.get()
        return None if here is None or here.scope.is_over else here

    def _scope_of(self, context: Context) -> Scope | None:
        scope = self._scopes.get(context)
        return None if scope is None or scope.is_over else scope

    def _begin(self, workflow: Workflow) -> Scope | None:
        self.close_collected()
        carriers = self._subscribers(workflow)
        if not carriers:
            return None
        conversation = self._conversation_of(workflow)
        run = self._runs.begin(conversation.name, self._apps.of(workflow), carriers)
        conversation.last_run = run
        return Scope(run, name="", key="", path=(), is_workflow=True)

    def _begin_agent(self, agent: Agent, messages: Any, options: Mapping[str, Any]) -> Scope | None:
        self.close_collected()
        carriers = self._subscribers(agent)
        if not carriers:
            return None
        session, app = internals.session_of(options), self._apps.of(agent)
        run = self._runs.begin(session and conversation_name(session, app), app, carriers)
        goes_on = session is not None or internals.has_history(messages)
        return Scope(run, name="", key="", path=(), is_workflow=False, goes_on=goes_on)

    def _enter(self, here: Place, subject: Workflow | Agent) -> Scope:
        run, key = here.scope.run, str(next(self._keys))
        if internals.workflow_inside(here.subject) is subject:
            return Scope(run, here.agent, key, here.path, is_workflow=True)
        # A tool, or an executor's own code, runs what the structure does not show.
        path = (*here.path, internals.name_of(subject))
        name = f"{here.agent}/*{internals.name_of(subject)}"
        is_workflow = internals.is_workflow(subject)
        below = path if is_workflow else here.path
        run.workflow.app.adopt(here.agent, name, lambda: structure_of(subject, below, name))
        return Scope(run, name, key, path, is_workflow)

    def _conversation_of(self, workflow: Workflow) -> Conversation:
        conversation = self._conversations.get(workflow)
        if conversation is None:
            conversation = self._conversations[workflow] = Conversation()
            # A finalizer may run anywhere, under any lock: it only leaves a note.
            end = weakref.finalize(workflow, self._collected.append, conversation)
            end.atexit = False
        return conversation
