"""Loops written by hand: the program itself says which workflow and which agent is at work.

    with kvflow_agents.workflow("ticket-7", base_urls=["http://localhost:30000/v1"]):
        with kvflow_agents.agent("planner"):
            plan = client.chat.completions.create(...)
        with kvflow_agents.agent("writer"):
            ...

Who follows whom is learned from the order of the calls, over all workflows of one place in the
program. `async with` does the same.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextvars import ContextVar
from types import FrameType, TracebackType
from typing import Self

from kvflow_agents import turns
from kvflow_agents.adapter import Subscriptions
from kvflow_agents.app import App
from kvflow_agents.apps import MAX_APPS
from kvflow_agents.carrier import Carrier
from kvflow_agents.errors import ConfigurationError
from kvflow_agents.failsafe import Failsafe
from kvflow_agents.hints import agent_name, lora_name
from kvflow_agents.runs import Caller, Run, Runs
from kvflow_agents.scopes import END, START
from kvflow_agents.step_graph import StepGraph
from kvflow_agents.turns import Turn

failsafe = Failsafe("a workflow")


def workflow(
    name: str | None = None,
    *,
    base_urls: Iterable[str] | None = None,
    app: str | None = None,
    resumable: bool = False,
) -> LoopWorkflow:
    """One run of a loop, as a context manager; calls to `base_urls` inside it carry hints.

    Without `base_urls`, `KVFLOW_BASE_URLS` says which servers take hints; ConfigurationError on
    entering if neither does. Workflows share what is learned if they have
    the same `app`: by default, the place in the program that calls this. A `resumable` one may go
    on later under its `name`; another is done for good when it is left.
    """
    return LoopWorkflow(
        name, base_urls, app or _place_in_program(sys._getframe(1)), resumable=resumable
    )


def agent(name: str, *, lora: str | None = None) -> LoopAgent:
    """An agent's turn, as a context manager: calls inside it are the agent's.

    Inside another agent its name is a path, `team/writer`; outside any workflow it does nothing.
    `lora`: the adapter that its calls ask for, which servers then know of later runs beforehand.
    A generator that yields inside of it makes the calls of its consumer the agent's, too.
    """
    return LoopAgent(name, None, lora)


def is_at_work() -> bool:
    """Whether the code at work is inside a `workflow`: what a framework runs is a turn in it."""
    return turns.current(_place) is not None


class Place(Turn):
    """Where the code at work is: in a run, inside these agents."""

    def __init__(self, run: Run, path: tuple[str, ...] = ()) -> None:
        self.run = run
        self.path = path
        self.agent = agent_name(path)

    @property
    def scope(self) -> str:
        """The scope of the agents inside."""
        return f"{self.agent}/*" if self.path else ""


_place: ContextVar[Place | None] = ContextVar("kvflow_place", default=None)


class LoopAdapter:
    """A loop's part of the contract (`kvflow_agents.adapter`): there is nothing to patch."""

    def __init__(self) -> None:
        self.subscriptions = Subscriptions(self)
        self.runs = Runs()
        self._apps: OrderedDict[str, App] = OrderedDict()
        self._users: dict[tuple[str, ...] | None, tuple[Carrier, int]] = {}
        self._lock = threading.Lock()

    def turn_on(self) -> bool:
        """Nothing has to be done."""
        return True

    def turn_off(self) -> None:
        """Nothing was done."""

    def caller(self) -> Caller | None:
        """The agent in whose turn a call is made; outside of one it is nobody's.

        A task that goes on after its turn is still that agent's.
        """
        place = _place.get()
        return Caller(place.run, place.agent) if place is not None and place.path else None

    def app(self, name: str) -> App:
        """What the workflows of one application share."""
        with self._lock:
            if name not in self._apps:
                start = StepGraph(passive=[START, END], open_agents=[START])
                self._apps[name] = App(start, name=name, is_open=True)
            self._apps.move_to_end(name)
            if len(self._apps) > MAX_APPS:
                self._apps.popitem(last=False)
            return self._apps[name]

    def borrow(self, urls: tuple[str, ...] | None) -> Carrier:
        """The carrier of all workflows with these servers; there as long as any of them is."""
        with self._lock:
            carrier, users = self._users.get(urls) or (self.subscriptions.subscribe(urls), 0)
            self._users[urls] = (carrier, users + 1)
            return carrier

    def give_back(self, urls: tuple[str, ...] | None) -> None:
        """A workflow needs its carrier no more."""
        with self._lock:
            carrier, users = self._users.pop(urls)
            if users > 1:
                self._users[urls] = (carrier, users - 1)
            else:
                self.subscriptions.unsubscribe(carrier)


adapter = LoopAdapter()


class LoopWorkflow:
    """What `workflow` makes. `agent` works from any thread; use the object once."""

    def __init__(
        self, name: str | None, base_urls: Iterable[str] | None, app: str, *, resumable: bool
    ) -> None:
        if isinstance(base_urls, str):
            raise ConfigurationError(
                f"base_urls must be a list of URLs, not the text {base_urls!r}"
            )
        self._name = None if name is None else str(name)
        self._urls = None if base_urls is None else tuple(base_urls)
        self._app = hashlib.blake2b(app.encode("utf-8", "replace"), digest_size=16).hexdigest()
        self._resumable = resumable
        self._run: Run | None = None
        self._place: Place | None = None

    def agent(self, name: str, *, lora: str | None = None) -> LoopAgent:
        """Like the module's `agent`, where the context does not say which workflow it is."""
        return LoopAgent(name, self._run, lora)

    def __enter__(self) -> Self:
        carrier = adapter.borrow(self._urls)
        failsafe(self._begin, carrier)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._run is not None and self._place is not None:
            turns.leave(_place, self._place)
            if error is None:  # else it could have gone on
                failsafe(self._run.workflow.plan, "", [END])
            failsafe(adapter.runs.end, self._run, resumable=self._resumable)
        failsafe(adapter.give_back, self._urls)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def _begin(self, carrier: Carrier) -> None:
        self._run = adapter.runs.begin(self._name, adapter.app(self._app), [carrier])
        self._place = Place(self._run)
        turns.enter(_place, self._place)


class LoopAgent:
    """What `agent` makes; use the object once."""

    def __init__(self, name: str, run: Run | None, lora: str | None) -> None:
        self._name = str(name)
        self._lora = lora
        self._run = run
        self._outer: Place | None = None
        self._place: Place | None = None

    def __enter__(self) -> Self:
        failsafe(self._enter)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._outer is not None and self._place is not None:
            turns.leave(_place, self._place)
            workflow = self._outer.run.workflow
            failsafe(workflow.finish, self._outer.scope, self._place.agent)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def _enter(self) -> None:
        self._outer = outer = self._find_outer()
        if outer is not None:
            self._place = place = Place(outer.run, (*outer.path, self._name))
            turns.enter(_place, place)
            self._begin(outer, place.agent)

    def _find_outer(self) -> Place | None:
        here = turns.current(_place)
        if self._run is None or (here is not None and here.run is self._run):
            return here
        return Place(self._run)

    def _begin(self, outer: Place, agent: str) -> None:
        workflow = outer.run.workflow
        if outer.path:
            workflow.app.adopt(outer.agent, outer.scope)
        workflow.join(outer.scope, agent)
        lora = None if self._lora is None else lora_name(self._lora)
        if lora is not None and workflow.app.loras.get(agent) != lora:
            workflow.app.learn_lora(agent, lora)


def _place_in_program(frame: FrameType) -> str:
    code = frame.f_code
    file = code.co_filename.replace("\\", "/").rpartition("/")[2]
    return f"{frame.f_globals.get('__name__')} {file} {code.co_qualname}"
