"""Runs: each is one workflow, under a name that no other live run has, told to who wants it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Collection
from typing import NamedTuple
from weakref import WeakValueDictionary

from kvflow_agents.app import App
from kvflow_agents.carrier import Carrier
from kvflow_agents.failsafe import Failsafe
from kvflow_agents.hints import workflow_name
from kvflow_agents.keeper import keeper
from kvflow_agents.live_workflow import Workflow


class Run:
    """One run of an application, with everything that runs inside it."""

    def __init__(self, workflow: Workflow, carriers: Collection[Carrier]) -> None:
        self.workflow = workflow
        self.carriers = carriers

    def end(self, *, resumable: bool) -> None:
        """Tell every server that has seen the workflow what to expect of it now."""
        hint = self.workflow.end(resumable=resumable)
        for carrier in self.carriers:
            carrier.announce(hint)


def conversation_name(conversation: str, app: App) -> str:
    """The name of a workflow that goes on: `ticket-7@1f3a9c2e`.

    Applications name their conversations each for itself: many know one that is called `1`.
    """
    return f"{conversation}@{app.mark}"


class Caller(NamedTuple):
    """Who calls the model: an agent of a live run, by its whole path."""

    run: Run
    agent: str


class Runs:
    """The live runs. They are held weakly: one that dies without an end leaves nothing here."""

    def __init__(self) -> None:
        self._live: WeakValueDictionary[str, Run] = WeakValueDictionary()
        self._lock = threading.Lock()
        self._failsafe = Failsafe("a run")

    def __len__(self) -> int:
        return len(self._live)

    def begin(self, name: str | None, app: App, carriers: Collection[Carrier]) -> Run:
        """A new run: called as asked, so that whoever goes on with it later is known by it too."""
        self._failsafe(_began, app)
        with self._lock:
            name = workflow_name(name or uuid.uuid4().hex)
            if name in self._live:
                # Forecasts of two runs at once under one name would contradict each other.
                name = workflow_name(f"{name}#{uuid.uuid4().hex}")
            # Microseconds: a run cannot make hints fast enough to overtake them.
            workflow = Workflow(name, app, first_seq=time.time_ns() // 1000)
            run = self._live[name] = Run(workflow, carriers)
            return run

    def end(self, run: Run, *, resumable: bool) -> None:
        """The run is over and its name is free."""
        with self._lock:
            self._live.pop(run.workflow.name, None)
        run.end(resumable=resumable)
        self._failsafe(_ended, run.workflow.app)


def _began(app: App) -> None:
    if keep := keeper():
        keep.began(app)


def _ended(app: App) -> None:
    if keep := keeper():
        keep.ended(app)
