"""The observer: turns what Google ADK does into plans of workflows."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from kvflow_agents import Carrier, agent_name
from kvflow_agents.apps import Apps
from kvflow_agents.runs import Caller, Run, Runs
from kvflow_google_adk import _internals as internals
from kvflow_google_adk._internals import Node, Runner
from kvflow_google_adk._structure import Path, first_agents, structure_of

MAX_SESSIONS = 4096

_agent_name = lru_cache(maxsize=8192)(agent_name)


@dataclass(eq=False)
class Scope:
    """One runner's place in its run: agents of one tree, named below a path."""

    run: Run
    name: str
    key: str
    path: Path
    announced: set[str] = field(default_factory=set)
    """Agents that are planned and have not begun."""
    at_work: list[str] = field(default_factory=list)
    """Agents that have begun and not ended, each as often as it has."""
    is_over: bool = False

    def agent(self, name: str) -> str:
        """An agent's whole path."""
        return _agent_name((*self.path, name))


class Place(NamedTuple):
    """Where code is at work: in a scope, in an agent's turn or between turns."""

    scope: Scope
    name: str | None = None

    @property
    def agent(self) -> str:
        return self.scope.agent(self.name or "")


_place: ContextVar[Place | None] = ContextVar("kvflow_google_adk_place", default=None)


class Observer:
    """Follows every runner that somebody subscribes to."""

    def __init__(self, subscribers: Callable[[Runner], Collection[Carrier]]) -> None:
        self._subscribers = subscribers
        self._apps = Apps(structure_of)
        self._runs = Runs()
        self._sessions: WeakKeyDictionary[Any, OrderedDict[str, Run]] = WeakKeyDictionary()
        self._keys = itertools.count(1)

    def enter(self, runner: Runner, session: str) -> Place | None:
        """A runner begins to run in a session; None if nobody wants to know."""
        here = self.place()
        if here is not None and here.name is not None:
            return Place(self._enter(here, runner))
        carriers = self._subscribers(runner)
        if not carriers:
            return None
        run = self._runs.begin(session, self._apps.of(runner), carriers)
        self._remember(runner, session, run)
        return Place(Scope(run, "", "", ()))

    def leave(self, place: Place) -> None:
        """A run is over, however it went; its session may go on."""
        scope = place.scope
        if scope.is_over:
            return
        scope.is_over = True
        if scope.name:
            scope.run.workflow.leave(scope.name, run=scope.key)
        else:
            self._runs.end(scope.run, resumable=True)

    def close(self, runner: Runner) -> None:
        """A runner is not used again: its sessions are done."""
        for run in self._sessions.pop(runner, {}).values():
            run.end(resumable=False)

    def begin(self, agent: Node) -> Place | None:
        """An agent begins; None if it calls no model itself, or is nobody's."""
        here = self.place()
        if here is None:
            return None
        if not internals.calls_model(agent):
            if internals.is_parallel(agent):
                self.announce(first_agents(agent))
            return None
        if here.name is not None:
            self.finish(here)  # it has handed over
        scope, name = here.scope, str(agent.name)
        if name in scope.announced:
            scope.announced.discard(name)
        else:
            _plan(scope, name)
        scope.at_work.append(name)
        return Place(scope, name)

    def finish(self, place: Place) -> None:
        """An agent's turn is over. Once more changes nothing."""
        scope, name = place.scope, place.name
        if name in scope.at_work:
            scope.at_work.remove(name)
            scope.run.workflow.finish(scope.name, place.agent, run=scope.key)

    def announce(self, names: Iterable[str]) -> None:
        """Agents will begin, all of them before one of them ends."""
        here = self.place()
        if here is None:
            return
        if here.name is not None:
            self.finish(here)
        for name in names:
            if name not in here.scope.announced:
                _plan(here.scope, name)
                here.scope.announced.add(name)

    def caller(self) -> Caller | None:
        """Who is calling; one that goes on after it has handed over takes its turn again."""
        here = self.place()
        if here is None or here.name is None:
            return None
        if here.name not in here.scope.at_work:
            _plan(here.scope, here.name)
            here.scope.at_work.append(here.name)
        return Caller(here.scope.run, here.agent)

    def place(self) -> Place | None:
        """Where the code at work is; a task that has outlived its run is nowhere."""
        here = _place.get()
        return None if here is None or here.scope.is_over else here

    def take(self, place: Place) -> Token[Place | None]:
        """The code at work is in a place until the token is given back."""
        return _place.set(place)

    def give_back(self, token: Token[Place | None]) -> None:
        """The code at work is where it was before."""
        _place.reset(token)

    def _enter(self, here: Place, runner: Runner) -> Scope:
        """A tool runs an agent, in a session of its own."""
        run = here.scope.run
        path = (*here.scope.path, here.name or "")
        name = f"{here.agent}/*{internals.root_of(runner).name}"
        run.workflow.app.adopt(here.agent, name, lambda: structure_of(runner, path, name))
        return Scope(run, name, str(next(self._keys)), path)

    def _remember(self, runner: Runner, session: str, run: Run) -> None:
        sessions = self._sessions.setdefault(runner, OrderedDict())
        sessions[session] = run
        sessions.move_to_end(session)
        if len(sessions) > MAX_SESSIONS:
            sessions.popitem(last=False)


def _plan(scope: Scope, name: str) -> None:
    workflow, agent = scope.run.workflow, scope.agent(name)
    if scope.at_work or scope.announced:
        workflow.push(scope.name, agent, run=scope.key)
    else:
        workflow.plan(scope.name, [agent], run=scope.key)
