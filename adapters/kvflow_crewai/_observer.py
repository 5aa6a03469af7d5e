"""The observer: turns what CrewAI does into plans of workflows."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from kvflow_agents import Carrier, agent_name, turns
from kvflow_agents.apps import Apps
from kvflow_agents.runs import Caller, Run, Runs
from kvflow_crewai import _internals as internals
from kvflow_crewai._internals import Agent, Crew, Task
from kvflow_crewai._structure import Path, begin_together, structure_of

_agent_name = lru_cache(maxsize=8192)(agent_name)


@dataclass(eq=False)
class Scope:
    """One crew's place in its run."""

    run: Run
    name: str
    key: str
    path: Path
    tasks: Sequence[Task]
    announced: list[str] = field(default_factory=list)
    """Agents that are planned and have not begun, each as often as it is."""
    at_work: list[str] = field(default_factory=list)
    is_over: bool = False
    # Tasks that run beside others have threads of their own.
    lock: threading.RLock = field(default_factory=threading.RLock)

    def turn(self, agent: Agent) -> Place:
        """Where an agent of the crew is at work."""
        path = (*self.path, internals.name_of(agent))
        return Place(self, path, _agent_name(path))


class Place(NamedTuple):
    """Where code is at work: in a scope, in an agent's turn or between turns."""

    scope: Scope
    path: Path = ()
    agent: str | None = None


_place: ContextVar[Place | None] = ContextVar("kvflow_crewai_place", default=None)


class Observer:
    """Follows every crew that somebody subscribes to."""

    def __init__(self, subscribers: Callable[[Crew], Collection[Carrier]]) -> None:
        self._subscribers = subscribers
        self._apps = Apps(structure_of)
        self._runs = Runs()
        self._originals: WeakKeyDictionary[Any, weakref.ref[Any]] = WeakKeyDictionary()
        self._keys = itertools.count(1)

    def enter(self, crew: Crew, tasks: Sequence[Task]) -> Place | None:
        """A crew begins its tasks; None if nobody wants to know."""
        here = self.place()
        if here is not None and here.agent is not None:
            return Place(self._enter(here, here.agent, crew, tasks))
        carriers = self._subscribers(self._original(crew))
        if not carriers:
            return None
        run = self._runs.begin(None, self._apps.of(crew), carriers)
        return Place(Scope(run, "", "", (), tasks))

    def leave(self, place: Place) -> None:
        """A crew is over, however it went."""
        scope = place.scope
        scope.is_over = True
        scope.tasks = ()
        if scope.name:
            scope.run.workflow.leave(scope.name, run=scope.key)
        else:
            self._runs.end(scope.run, resumable=False)

    def copied(self, crew: Crew, copy: Crew) -> None:
        """A crew is run as a copy, once for each of several inputs."""
        self._originals[copy] = weakref.ref(self._original(crew))

    def begin_task(self, task: Task, agent: Agent | None) -> Place | None:
        """An agent begins a task; those begun together with it are planned at once."""
        here, agent = self.place(), agent or internals.agent_of(task)
        if here is None or here.agent is not None or agent is None:
            return None
        scope = here.scope
        with scope.lock:
            place = scope.turn(agent)
            if place.agent not in scope.announced:
                for beside in begin_together(scope.tasks, task):
                    # The agent at hand may stand for that of its task: a manager does.
                    other = None if beside is task else internals.agent_of(beside)
                    _announce(place if other is None else scope.turn(other))
            return _begin(place)

    def ask(self, agent: Agent) -> Place | None:
        """An agent is asked; None if it has its turn already."""
        here = self.place()
        if here is None or here.agent is None or here.path[-1] == internals.name_of(agent):
            return None
        with here.scope.lock:
            self.finish(here)  # who delegates takes its turn again afterwards
            return _begin(_announce(here.scope.turn(agent)))

    def finish(self, place: Place) -> None:
        """An agent's turn is over. Once more changes nothing."""
        scope, agent = place.scope, place.agent
        with scope.lock:
            if agent in scope.at_work:
                scope.at_work.remove(agent)
                scope.run.workflow.finish(scope.name, agent, run=scope.key)

    def caller(self) -> Caller | None:
        """Who is calling; one that goes on after it has delegated takes its turn again."""
        here = self.place()
        if here is None or here.agent is None:
            return None
        with here.scope.lock:
            if here.agent not in here.scope.at_work:
                _begin(_announce(here))
        return Caller(here.scope.run, here.agent)

    def place(self) -> Place | None:
        """Where the code at work is; a thread that has outlived its run is nowhere."""
        here = _place.get()
        return None if here is None or here.scope.is_over else here

    def take(self, place: Place) -> Token[Place | None]:
        """The code at work is in a place until the token is given back."""
        return _place.set(place)

    def give_back(self, token: Token[Place | None]) -> None:
        """The code at work is where it was before."""
        turns.give_back(token)

    def _enter(self, here: Place, agent: str, crew: Crew, tasks: Sequence[Task]) -> Scope:
        """A tool runs a crew."""
        run, path = here.scope.run, here.path
        name = f"{agent}/*{crew.name}"
        run.workflow.app.adopt(agent, name, lambda: structure_of(crew, path, name))
        return Scope(run, name, str(next(self._keys)), path, tasks)

    def _original(self, crew: Crew) -> Crew:
        found = self._originals.get(crew)
        original = None if found is None else found()
        return crew if original is None else original


def _announce(place: Place) -> Place:
    """An agent will begin, beside what is at work or will begin, too."""
    scope, agent = place.scope, place.agent or ""
    workflow = scope.run.workflow
    if scope.at_work or scope.announced:
        workflow.push(scope.name, agent, run=scope.key)
    else:
        workflow.plan(scope.name, [agent], run=scope.key)
    scope.announced.append(agent)
    return place


def _begin(place: Place) -> Place:
    """An agent that was announced begins."""
    agent = place.agent or ""
    place.scope.announced.remove(agent)
    place.scope.at_work.append(agent)
    return place
