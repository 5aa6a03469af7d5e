"""Runs: each is one workflow, under a name that no other live run has."""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Collection
from weakref import WeakValueDictionary

from kvflow_agents import App, Carrier, Workflow
from kvflow_agents.hints import MAX_WORKFLOW_BYTES


class Run:
    """A root graph's run with all the graphs that run inside it."""

    def __init__(self, workflow: Workflow, carriers: Collection[Carrier]) -> None:
        self.workflow = workflow
        self.carriers = carriers

    def end(self, *, resumable: bool) -> None:
        """Tell every server that has seen the workflow what to expect of it now."""
        hint = self.workflow.end(resumable=resumable)
        for carrier in self.carriers:
            carrier.announce(hint)


class Runs:
    """The live runs. They are held weakly: one that dies without an end leaves nothing here."""

    def __init__(self) -> None:
        self._live: WeakValueDictionary[str, Run] = WeakValueDictionary()
        self._lock = threading.Lock()

    def begin(
        self, thread: str | None, run_id: str | None, app: App, carriers: Collection[Carrier]
    ) -> Run:
        """A new run: named after its thread, so that the thread's next run is known by it too."""
        with self._lock:
            name = _workflow_name(thread or run_id or uuid.uuid4().hex)
            if name in self._live:
                # Forecasts of two runs at once on one thread would contradict each other.
                name = _workflow_name(f"{name}#{uuid.uuid4().hex}")
            # Microseconds: a run cannot make hints fast enough to overtake them.
            workflow = Workflow(name, app, first_seq=time.time_ns() // 1000)
            run = self._live[name] = Run(workflow, carriers)
            return run

    def end(self, run: Run, *, resumable: bool) -> None:
        """The run is over and its name is free."""
        with self._lock:
            self._live.pop(run.workflow.name, None)
        run.end(resumable=resumable)


def _workflow_name(name: str) -> str:
    """The name itself if a hint can hold it, else its hash."""
    encoded = name.encode("utf-8", "surrogatepass")
    if name.isprintable() and len(encoded) <= MAX_WORKFLOW_BYTES:
        return name
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()
