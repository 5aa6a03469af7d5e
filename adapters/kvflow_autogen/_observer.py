"""The observer: turns what AutoGen does into plans of workflows."""

from __future__ import annotations

import itertools
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Collection
from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary

from kvflow_agents import Carrier, agent_name, turns
from kvflow_agents.apps import Apps
from kvflow_agents.runs import Caller, Run, Runs
from kvflow_autogen import _internals as internals
from kvflow_autogen._internals import Actor, Agent, HandlerId, Team
from kvflow_autogen._structure import Path, answer_path, structure_of

_agent_name = lru_cache(maxsize=8192)(agent_name)


@dataclass(eq=False)
class Scope:
    """One team's or one agent's place in its run, held by whoever runs it."""

    run: Run
    name: str
    key: str
    path: Path
    subject: Team | Agent
    goes_on: bool = False
    """Whether its holder still has a turn in it when it is over."""
    is_over: bool = False

    @cached_property
    def participants(self) -> dict[str, Any]:
        """The agents and teams of a team, by name."""
        return {each.name: each for each in internals.participants_of(self.subject)}


class Place(NamedTuple):
    """Where code is at work: an agent's turn, or a manager's between the turns."""

    scope: Scope
    path: Path
    subject: Agent | Team | None
    """None for a manager."""
    handler: HandlerId | None
    """The message handler in which the place was taken; inside another one it no longer counts."""

    @property
    def agent(self) -> str:
        return _agent_name(self.path)


class Conversation:
    """What is remembered of a team or an agent between its runs: it may go on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.last_run: Run | None = None

    def close(self) -> None:
        """It does not go on: whoever has seen it is told."""
        run, self.last_run = self.last_run, None
        if run is not None:
            run.end(resumable=False)


_place: ContextVar[Place | None] = ContextVar("kvflow_autogen_place", default=None)


class Observer:
    """Follows every team and agent that somebody subscribes to."""

    def __init__(self, subscribers: Callable[[Team | Agent], Collection[Carrier]]) -> None:
        self._subscribers = subscribers
        self._apps = Apps(structure_of)
        self._runs = Runs()
        self._scopes: WeakValueDictionary[str, Scope] = WeakValueDictionary()
        self._conversations: WeakKeyDictionary[Any, Conversation] = WeakKeyDictionary()
        self._collected: deque[Conversation] = deque()
        self._keys = itertools.count(1)

    def enter_team(self, team: Team) -> Scope | None:
        """A team begins to run; None if nobody wants to know, or if it runs already."""
        running = self._scopes.get(internals.id_of(team))
        if running is not None and not running.is_over:
            return None
        here = self.place()
        scope = self._begin(team) if here is None else self._enter(here, team)
        if scope is not None:
            self._scopes[internals.id_of(team)] = scope
        return scope

    def enter_agent(self, agent: Agent) -> Place | None:
        """An agent begins to run by itself; None if that is its turn in a team, or nobody's."""
        here = self.place()
        if here is not None and (here.subject is agent or internals.wraps(here.subject, agent)):
            return None
        scope = self._begin(agent) if here is None else self._enter(here, agent)
        if scope is None:
            return None
        path = scope.path if scope.name else (agent.name,)
        scope.run.workflow.plan(scope.name, [_agent_name(path)], run=scope.key)
        return Place(scope, path, agent, internals.handler_id())

    def leave(self, scope: Scope) -> None:
        """What ran in a scope is over, however it went. Once more changes nothing."""
        if scope.is_over:
            return
        scope.is_over = True
        if not scope.name:
            # The object keeps its history: its next run goes on with the workflow.
            self._runs.end(scope.run, resumable=True)
        elif not scope.goes_on:
            scope.run.workflow.leave(scope.name, run=scope.key)

    def selected(self, manager: Actor, speakers: Collection[str]) -> None:
        """A manager has chosen the speakers of the next turn; none has been asked yet."""
        scope = self._scopes.get(internals.team_id_of(manager.id))
        if scope is not None and speakers:
            agents = [_agent_name((*scope.path, speaker)) for speaker in speakers]
            scope.run.workflow.plan(scope.name, agents, run=scope.key)

    def asked(self, manager: Actor, speaker: str) -> None:
        """A manager is about to ask somebody to speak."""
        scope = self._scopes.get(internals.team_id_of(manager.id))
        if scope is not None:
            _join(scope, _agent_name((*scope.path, speaker)))

    def answered(self, actor: Actor, speaker: str) -> None:
        """An actor is about to tell what its participant has said."""
        scope = self._scopes.get(internals.team_id_of(actor.id))
        if scope is not None:
            agent = _agent_name((*scope.path, speaker))
            scope.run.workflow.finish(scope.name, agent, run=scope.key)

    def reset(self, team: Team) -> None:
        """A team has forgotten its history."""
        if (conversation := self._conversations.get(team)) is not None:
            conversation.close()

    def caller(self) -> Caller | None:
        """Who is calling; one whose turn nobody announces takes it with its call."""
        here = self.place()
        if here is None:
            return None
        if here.subject is None:
            _join(here.scope, here.agent)
        elif internals.team_inside(here.subject) is not None:
            answer = _agent_name(answer_path(here.path))
            inner = Scope(here.scope.run, here.agent, here.scope.key, here.path, here.subject)
            _join(inner, answer)
            return Caller(here.scope.run, answer)
        return Caller(here.scope.run, here.agent)

    def place(self) -> Place | None:
        """Where the code at work is; a task that has outlived its run is nowhere."""
        handler = internals.handler_id()
        here = _place.get()
        if here is None or here.handler != handler:
            here = None if handler is None else self._place_of(handler)
        return None if here is None or here.scope.is_over else here

    def take(self, place: Place) -> Token[Place | None]:
        """The code at work is in a place until the token is given back."""
        return _place.set(place)

    def give_back(self, token: Token[Place | None]) -> None:
        """The code at work is where it was before."""
        turns.give_back(token)

    def _place_of(self, handler: HandlerId) -> Place | None:
        scope = self._scopes.get(internals.team_id_of(handler))
        if scope is None:
            return None
        name = internals.name_of(handler)
        return Place(scope, (*scope.path, name), scope.participants.get(name), handler)

    def _begin(self, subject: Team | Agent) -> Scope | None:
        self._close_collected()
        carriers = self._subscribers(subject)
        if not carriers:
            return None
        conversation = self._conversation_of(subject)
        run = self._runs.begin(conversation.name, self._apps.of(subject), carriers)
        conversation.last_run = run
        return Scope(run, name="", key="", path=(), subject=subject)

    def _enter(self, here: Place, subject: Team | Agent) -> Scope:
        run, holder = here.scope.run, here.subject
        if holder is subject:
            return Scope(run, here.agent, here.scope.key, here.path, subject)
        if holder is not None and internals.team_inside(holder) is subject:
            return Scope(run, here.agent, here.scope.key, here.path, subject, goes_on=True)
        # A tool, or an agent's own code, runs what the structure does not show.
        path = (*here.path, subject.name)
        name = f"{here.agent}/*{subject.name}"
        below = path if internals.is_team(subject) else here.path
        run.workflow.app.adopt(here.agent, name, lambda: structure_of(subject, below, name))
        return Scope(run, name, str(next(self._keys)), path, subject)

    def _conversation_of(self, subject: Team | Agent) -> Conversation:
        conversation = self._conversations.get(subject)
        if conversation is None:
            name = internals.id_of(subject) if internals.is_team(subject) else uuid.uuid4().hex
            conversation = self._conversations[subject] = Conversation(name)
            # A finalizer may run anywhere, under any lock: it only leaves a note.
            end = weakref.finalize(subject, self._collected.append, conversation)
            end.atexit = False
        return conversation

    def _close_collected(self) -> None:
        while self._collected:
            self._collected.popleft().close()


def _join(scope: Scope, agent: str) -> None:
    scope.run.workflow.join_once(scope.name, agent, run=scope.key)
