"""Forecasts for recorded workflows, made call by call by the core that makes the live ones."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from kvflow_agents import App, StepGraph, Workflow
from kvflow_agents.hints import Hint, agent_name, workflow_name
from kvflow_agents.scopes import END, START
from kvflow_replay.calls import Call, End

# Bounds what is kept of workflows that never end.
MAX_WORKFLOWS = 4096
MAX_APPS = 256
# The only agent of a session of which nobody says who calls.
SESSION = "session"


@dataclass(slots=True)
class _Run:
    workflow: Workflow
    at_work: Counter[str] = field(default_factory=Counter)
    """How many calls of each agent that is at work are not answered."""


class Forecaster:
    """Hears of calls and answers in the order of time and says what an adapter would have said.

    Only what came before is known. Agents are at work from their first call until another of
    their workflow calls after their last answer. Calls without a workflow have no hint.
    """

    def __init__(self) -> None:
        self._apps: OrderedDict[str, App] = OrderedDict()
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._now_s = 0.0

    def call(self, call: Call) -> Hint | None:
        """The hint that goes with a call."""
        if call.workflow is None:
            return None
        self._now_s = call.at_s
        run = self._run(call.workflow, call.app or "")
        agent = _agent(call)
        for name in [name for name, calls in run.at_work.items() if not calls]:
            if name != agent:
                run.workflow.finish("", name)
                del run.at_work[name]
        if agent not in run.at_work:
            run.workflow.join("", agent)
        run.at_work[agent] += 1
        return run.workflow.hint(agent)

    def answered(self, call: Call) -> None:
        """A call has its answer; nothing is said with that."""
        run = self._runs.get(call.workflow or "")
        # Its run may be over or forgotten, and another have its name.
        if run is not None and run.at_work[_agent(call)]:
            run.at_work[_agent(call)] -= 1

    def end(self, end: End) -> Hint | None:
        """The hint that says that a workflow is over or pauses; None if it has not called."""
        run = self._runs.pop(end.workflow, None)
        if run is None:
            return None
        self._now_s = end.at_s
        run.workflow.plan("", [END])
        return run.workflow.end(resumable=end.is_resumable)

    def _run(self, name: str, app: str) -> _Run:
        run = self._runs.get(name)
        if run is None:
            # Names come again after an end: later runs have to count further.
            seq = int(self._now_s * 1e6) + 1
            workflow = Workflow(workflow_name(name), self._app(app), first_seq=seq, clock=self._now)
            run = self._runs[name] = _Run(workflow)
        self._runs.move_to_end(name)
        if len(self._runs) > MAX_WORKFLOWS:
            self._runs.popitem(last=False)
        return run

    def _app(self, name: str) -> App:
        if name not in self._apps:
            start = StepGraph(passive=[START, END], open_agents=[START])
            digest = hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=16).hexdigest()
            self._apps[name] = App(start, name=digest, is_open=True)
        self._apps.move_to_end(name)
        if len(self._apps) > MAX_APPS:
            self._apps.popitem(last=False)
        return self._apps[name]

    def _now(self) -> float:
        return self._now_s


class RecordedForecaster(Forecaster):
    """A forecaster for which calls are answered when the trace says."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0
        self._under_way: list[tuple[float, int, Call]] = []

    def call(self, call: Call) -> Hint | None:
        while self._under_way and self._under_way[0][0] <= call.at_s:
            self.answered(heapq.heappop(self._under_way)[2])
        self._calls += 1
        ends_s = call.at_s + call.latency_s
        heapq.heappush(self._under_way, (ends_s, self._calls, call))
        return super().call(call)


def _agent(call: Call) -> str:
    return agent_name((call.agent or SESSION).split("/"))
