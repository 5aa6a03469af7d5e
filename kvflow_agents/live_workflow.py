"""One live run of an application: what is planned now, and so what comes next."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection

from kvflow_agents.app import App
from kvflow_agents.forecast import Forecast, Steps
from kvflow_agents.hints import Hint, fitting, fitting_loras
from kvflow_agents.lora_ledger import NO_LORAS
from kvflow_agents.scope_steps import ScopeStep, front_of
from kvflow_agents.scopes import ROOT, entry_of
from kvflow_agents.trail import PAUSE, Clock


class Workflow:
    """Follows a run, scope by scope, and forecasts it.

    A *scope* is a graph inside the run: the root is `""`, a subgraph has the path of the agent
    that holds it. Agents are named by their whole path; one that is planned twice in a step runs
    twice. Where a scope runs several times at once (a fan-out), `run` tells which of them it is.
    Safe to use from several threads. `first_seq` has to be larger than any `seq` an earlier run
    of the same name has used: the milliseconds of a clock will do.
    """

    def __init__(
        self, name: str, app: App, *, first_seq: int, clock: Clock = time.monotonic
    ) -> None:
        self.name = name
        self.app = app
        self._seq = first_seq
        self._lock = threading.Lock()
        self._scopes: dict[tuple[str, str], ScopeStep] = {}
        self._callers: frozenset[str] = frozenset()
        self._steps: Steps | None = None
        self._front = front_of(())
        self._trail = app.timing.begin(name, clock)
        self._ended: Forecast | None = None

    def plan(self, scope: str, agents: Collection[str], *, run: str = "") -> None:
        """A scope begins its next step: all of its last step has run, `agents` run now."""
        with self._lock:
            self._plan(scope, agents, run)

    def push(self, scope: str, agent: str, *, run: str = "") -> None:
        """One more agent joins the scope's current step."""
        with self._lock:
            self._push(scope, agent, run)

    def join(self, scope: str, agent: str, *, run: str = "") -> None:
        """An agent begins: beside what is at work in its scope, else as the scope's next step."""
        with self._lock:
            self._join(scope, agent, run)

    def join_once(self, scope: str, agent: str, *, run: str = "") -> None:
        """An agent begins, unless it is planned or at work in its scope's current step."""
        with self._lock:
            step = self._scopes.get((scope, run))
            if step is None or entry_of(agent, self.app.graph) not in step.planned:
                self._join(scope, agent, run)

    def finish(self, scope: str, agent: str, *, run: str = "") -> None:
        """An agent has run in its scope's current step; others of the step may still be at it."""
        with self._lock:
            step = self._scopes.get((scope, run))
            if step is None:
                return
            finish = self.app.steps.finished(step, agent)
            if finish is None:
                return
            if finish.is_last:
                self._trail.finish(finish.agent)
                if len(self._scopes) > 1:
                    self._forget_inside(scope, agent, run)
            self._scopes[scope, run] = finish.after
            self._steps = None

    def leave(self, scope: str, *, run: str = "") -> None:
        """A scope has run to its end, though the node that holds it may go on."""
        with self._lock:
            if self._scopes.pop((scope, run), None) is not None:
                self._steps = None

    def scene(self, agent: str) -> str:
        """The scene of a call that `agent` makes now, for its habits: see `Trail`."""
        with self._lock:
            return self._trail.scene(agent)

    def hint(self, agent: str) -> Hint:
        """The hint for a call that `agent` makes now."""
        with self._lock:
            if agent not in self._callers:
                self._callers |= {agent}
                self.app.learn_caller(agent)
                self._steps = None
            if self._ended is not None:
                return Hint(self.name, self._ended, agent, self.app.name)
            steps = self._steps
            if steps is None:
                steps = self._steps = self._look_ahead()
            if steps.get(agent) != 0:
                # Who calls is at work, even where the graph does not know it or expects it later.
                steps = fitting({agent: 0, **steps} | {agent: 0})
            forecast = self._forecast(agent, self._trail.call(agent), steps)
            return Hint(self.name, forecast, agent, self.app.name)

    def end(self, *, resumable: bool) -> Hint:
        """The run is over, for good or until it is resumed.

        Of a resumable one nobody is expected for now, but it is said when agents have come again
        after such a pause.
        """
        with self._lock:
            if resumable:
                self.app.timing.pause(self.name, self._trail)
                steps = fitting(dict.fromkeys(sorted(self._callers)))
                self._ended = self._forecast(PAUSE, PAUSE, steps)
            else:
                self._trail.end()
                self._seq += 1
                self._ended = Forecast(self._seq, done=True)
            return Hint(self.name, self._ended, app=self.app.name)

    def _plan(self, scope: str, agents: Collection[str], run: str) -> None:
        last = self._scopes.get((scope, run))
        if last is not None:
            for agent in {*last.planned, *last.finished}:
                self._trail.finish(agent)
        if last is None or len(self._scopes) > 1:
            self._forget_inside(scope, scope, run)
        self._scopes[scope, run] = self.app.steps.planned(scope, last, tuple(agents))
        self._steps = None

    def _push(self, scope: str, agent: str, run: str) -> None:
        step = self._scopes.get((scope, run))
        self._scopes[scope, run] = self.app.steps.pushed(scope, step, agent)
        self._steps = None

    def _join(self, scope: str, agent: str, run: str) -> None:
        step = self._scopes.get((scope, run))
        if step is None or not step.planned:
            self._plan(scope, [agent], run)
        else:
            self._scopes[scope, run] = self.app.steps.joined(scope, step, agent)
            self._steps = None

    def _forecast(self, caller: str, scene: str, steps: Steps) -> Forecast:
        self._seq += 1
        due_ms, chance = self.app.timing.figures(
            caller,
            steps,
            scene=scene,
            trail=self._trail,
            graph=self.app.graph,
            front=self._front,
        )
        loras = fitting_loras(self.app.loras, steps) if self.app.loras else NO_LORAS
        return Forecast(self._seq, steps, False, False, due_ms, chance, loras)

    def _look_ahead(self) -> Steps:
        at_work = tuple([(scope, step) for (scope, _), step in self._scopes.items()])
        self._front = front_of(at_work)
        return self.app.steps_ahead(self._front, self._callers)

    def _forget_inside(self, scope: str, holder: str, run: str) -> None:
        """Drop what nobody left of the scopes that `holder` held, unless other runs hold some."""
        left = []
        for path, other_run in self._scopes:
            if path == scope:
                if other_run != run:
                    return
            elif _is_within(path, holder):
                left.append((path, other_run))
        for each in left:
            del self._scopes[each]


def _is_within(scope: str, outer: str) -> bool:
    return outer in (ROOT, scope) or scope.startswith(f"{outer}/")
