"""The observer: turns what the Agents SDK does into plans of workflows."""

from __future__ import annotations

import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from kvflow_agents import App, Carrier, StepGraph, agent_name, turns
from kvflow_agents.apps import MAX_APPS, Apps
from kvflow_agents.endings import Endings
from kvflow_agents.identity_map import IdentityMap
from kvflow_agents.runs import Caller, Run, Runs, conversation_name
from kvflow_agents.scopes import END, START
from kvflow_openai_agents import _internals as internals
from kvflow_openai_agents._internals import Agent, Trace
from kvflow_openai_agents._structure import Path, scope_in, structure_of

_agent_name = lru_cache(maxsize=8192)(agent_name)


@dataclass(eq=False)
class Conversation:
    """One workflow: a run of the SDK, or all runs inside a user's trace."""

    run: Run
    goes_on: bool
    """Whether somebody keeps it, so that no end of it is ever seen."""
    last_result: weakref.ref[Any] | None = None


@dataclass(eq=False)
class Scope:
    """One run of the SDK: a workflow's root, one run in a trace, or what a tool runs."""

    conversation: Conversation
    holder: Path
    is_whole: bool
    """Whether the workflow ends with it."""
    name: str = field(init=False)
    agent: str | None = None
    """Whose turn it is."""
    is_over: bool = False
    token: Token[Place | None] | None = None
    """What takes the code around it back to where it was."""

    def __post_init__(self) -> None:
        self.name = scope_in(self.holder)


class Place(NamedTuple):
    """Where code is at work: in an agent's turn."""

    scope: Scope
    path: Path
    agent: str


_place: ContextVar[Place | None] = ContextVar("kvflow_openai_agents_place", default=None)


class Observer:
    """Follows every run that somebody subscribes to."""

    def __init__(self, subscribers: Callable[[Agent], Collection[Carrier]]) -> None:
        self._subscribers = subscribers
        self._apps = Apps(structure_of)
        self._traced_apps: OrderedDict[str, App] = OrderedDict()
        self._traced: IdentityMap[Conversation] = IdentityMap()
        self._runs = Runs()
        self.endings = Endings(self._runs)

    def enter(self, starting_agent: Agent, input: Any, options: Mapping[str, Any]) -> Scope | None:
        """A run begins; None if nobody wants to know. Its code is in a place until `leave`."""
        here = self._here()
        if here is None:
            scope = self._begin(starting_agent, input, options)
        else:
            scope = self._inside(here)
        if scope is None:
            return None
        scope.token = _place.set(_place_of(scope, internals.first_agent(starting_agent, input)))
        return scope

    def turn(self, agent: Agent) -> None:
        """An agent is about to call the model, in the task that does."""
        here = self._here()
        if here is None:
            return
        scope = here.scope
        place = _place_of(scope, agent)
        if place.agent != scope.agent:
            workflow = scope.conversation.run.workflow
            if scope.agent is not None:
                workflow.finish(scope.name, scope.agent)
            scope.agent = place.agent
            workflow.join(scope.name, place.agent)
        _place.set(place)

    def leave(self, scope: Scope, result: object | None) -> None:
        """A run is over; `result` is what its caller gets, None if it failed."""
        scope.is_over = True
        try:
            self._leave(scope, result)
        finally:
            if scope.token is not None:
                turns.give_back(scope.token)

    def finished(self, trace: Trace) -> None:
        """A trace is over."""
        conversation = self._traced.pop(trace)
        if conversation is not None:
            conversation.run.workflow.plan("", [END])
            last = conversation.last_result
            self._end(conversation, None if last is None else last())

    def caller(self) -> Caller | None:
        """Who is calling."""
        here = self._here()
        return None if here is None else Caller(here.scope.conversation.run, here.agent)

    def _here(self) -> Place | None:
        """Where the code at work is; a task that has outlived its run is nowhere."""
        here = _place.get()
        return None if here is None or here.scope.is_over else here

    def _begin(self, agent: Agent, input: Any, options: Mapping[str, Any]) -> Scope | None:
        self.endings.close_collected()
        carriers = self._subscribers(agent)
        if not carriers:
            return None
        trace = internals.current_trace()
        if trace is not None:
            return Scope(self._conversation_in(trace, carriers), (), is_whole=False)
        name, app = internals.conversation_of(options), self._apps.of(agent)
        run = self._runs.begin(name and conversation_name(name, app), app, carriers)
        goes_on = name is not None or internals.has_history(input)
        return Scope(Conversation(run, goes_on), (), is_whole=True)

    def _conversation_in(self, trace: Trace, carriers: Collection[Carrier]) -> Conversation:
        conversation = self._traced.get(trace)
        if conversation is None:
            group, app = internals.group_of(trace), self._app_of(trace)
            run = self._runs.begin(group and conversation_name(group, app), app, carriers)
            conversation = Conversation(run, goes_on=group is not None)
            self._traced[trace] = conversation
        return conversation

    def _app_of(self, trace: Trace) -> App:
        """What traces of one name share: who follows whom in their code, learned."""
        name = hashlib.blake2b(trace.name.encode("utf-8", "replace"), digest_size=16).hexdigest()
        start = StepGraph(passive=[START, END], open_agents=[START])
        app = self._traced_apps.setdefault(name, App(start, name=name, is_open=True))
        self._traced_apps.move_to_end(name)
        if len(self._traced_apps) > MAX_APPS:
            self._traced_apps.popitem(last=False)
        return app

    def _inside(self, here: Place) -> Scope:
        """A tool of an agent, or a guardrail, runs agents."""
        scope = Scope(here.scope.conversation, here.path, is_whole=False)
        scope.conversation.run.workflow.app.adopt(here.agent, scope.name)
        return scope

    def _leave(self, scope: Scope, result: object | None) -> None:
        conversation = scope.conversation
        if scope.is_whole:
            self._end(conversation, result)
            return
        if scope.agent is not None:
            conversation.run.workflow.finish(scope.name, scope.agent)
        if not scope.holder and result is not None:
            conversation.last_result = weakref.ref(result)

    def _end(self, conversation: Conversation, result: object | None) -> None:
        self.endings.end(conversation.run, result, goes_on=conversation.goes_on)


def _place_of(scope: Scope, agent: Agent) -> Place:
    path = (*scope.holder, internals.name_of(agent))
    return Place(scope, path, _agent_name(path))
