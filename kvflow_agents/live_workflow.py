"""One live run of an application: what is planned now, and so what comes next."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable

from kvflow_agents.app import START, App, end_of, start_of
from kvflow_agents.forecast import Forecast, Steps
from kvflow_agents.hints import MAX_AGENTS, Hint, fitting, fitting_loras
from kvflow_agents.step_graph import Join
from kvflow_agents.trail import PAUSE, Clock

ROOT = ""
INNER_START = f"/{START}"
"""How the start of a subgraph ends."""


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
        self._scopes: dict[tuple[str, str], _Scope] = {}
        self._callers: set[str] = set()
        self._steps: Steps | None = None
        self._finished: list[str] = []
        self._waiting: dict[Join, set[str]] = {}
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
            state = self._scopes.get((scope, run))
            if state is None or self._entry(agent) not in state.planned:
                self._join(scope, agent, run)

    def finish(self, scope: str, agent: str, *, run: str = "") -> None:
        """An agent has run in its scope's current step; others of the step may still be at it."""
        with self._lock:
            state = self._scopes.get((scope, run))
            planned = self._entry(agent)
            if state is None or planned not in state.planned:
                return
            state.planned[planned] -= 1
            if not state.planned[planned]:
                del state.planned[planned]
                self._trail.finish(planned)
                self._forget_inside(scope, agent, run)
            state.last_finished = self._exit(planned)
            state.finished.add(state.last_finished)
            self._changed()

    def leave(self, scope: str, *, run: str = "") -> None:
        """A scope has run to its end, though the node that holds it may go on."""
        with self._lock:
            if self._scopes.pop((scope, run), None) is not None:
                self._changed()

    def scene(self, agent: str) -> str:
        """The scene of a call that `agent` makes now, for its habits: see `Trail`."""
        with self._lock:
            return self._trail.scene(agent)

    def hint(self, agent: str) -> Hint:
        """The hint for a call that `agent` makes now."""
        with self._lock:
            if agent not in self._callers:
                self._callers.add(agent)
                self.app.learn_caller(agent)
                self._changed()
            if self._ended is not None:
                return self._hint(agent, self._ended)
            steps = self._steps
            if steps is None:
                steps = self._steps = self._look_ahead()
            if steps.get(agent) != 0:
                # Who calls is at work, even where the graph does not know it or expects it later.
                steps = fitting({agent: 0, **steps} | {agent: 0})
            return self._hint(agent, self._forecast(agent, self._trail.call(agent), steps))

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
            return self._hint(None, self._ended)

    def _plan(self, scope: str, agents: Collection[str], run: str) -> None:
        self._forget_inside(scope, scope, run)
        planned = [self._entry(agent) for agent in agents]
        last = self._scopes.get((scope, run))
        if last is None:
            before = {start_of(scope)}
        else:
            ran = last.planned.keys() | last.finished
            for agent in ran:
                self._trail.finish(agent)
            before = {self._exit(agent) for agent in ran}
        self.app.learn(before, planned, is_start=last is None)
        self._scopes[scope, run] = state = _Scope(before, last.arrived if last else {})
        for agent in planned:
            state.add(agent)
        self._note_arrivals(state, before)
        self._changed()

    def _push(self, scope: str, agent: str, run: str) -> None:
        state = self._scopes.setdefault((scope, run), _Scope(set(), {}))
        planned = self._entry(agent)
        before = {state.last_finished} if state.last_finished else state.before
        self.app.learn(before or {start_of(scope)}, {planned}, is_start=False)
        state.add(planned)
        self._changed()

    def _join(self, scope: str, agent: str, run: str) -> None:
        state = self._scopes.get((scope, run))
        if state is not None and (at_work := list(state.planned)):
            # Nobody says beforehand that it will run beside them: next, it is expected after them.
            self.app.learn(at_work, {self._entry(agent)}, is_start=False)
            self._push(scope, agent, run)
        else:
            self._plan(scope, [agent], run)

    def _changed(self) -> None:
        self._steps = None

    def _hint(self, agent: str | None, forecast: Forecast) -> Hint:
        return Hint(self.name, forecast, agent=agent, app=self.app.name)

    def _forecast(self, caller: str, scene: str, steps: Steps) -> Forecast:
        self._seq += 1
        due_ms, chance = self.app.timing.figures(
            caller,
            steps,
            scene=scene,
            trail=self._trail,
            graph=self.app.graph,
            finished=self._finished,
            arrived=self._waiting,
        )
        loras = fitting_loras(self.app.loras, steps)
        return Forecast(self._seq, steps, due_ms=due_ms, chance=chance, loras=loras)

    def _look_ahead(self) -> Steps:
        front, self._finished = self._front()
        self._waiting = self._arrived()
        outlook = self.app.outlook(front, self._finished, self._waiting, most_agents=MAX_AGENTS)
        steps: dict[str, int | None] = dict(outlook.steps)
        if outlook.is_closed:
            steps.update(dict.fromkeys(sorted(self._callers - steps.keys())))
        return fitting(steps)

    def _front(self) -> tuple[list[str], list[str]]:
        """What is planned now, and what has run in the steps of now."""
        if len(self._scopes) == 1 and (root := self._scopes.get((ROOT, ""))):
            return sorted(root.planned), sorted(root.finished)
        times: dict[str, int] = {}
        finished: set[str] = set()
        for (scope, _), state in self._scopes.items():
            for agent, planned in state.planned.items():
                times[agent] = times.get(agent, 0) + planned
            if scope != ROOT:
                # A scope at work stands for the passive node at which it began.
                times[start_of(scope)] = times.get(start_of(scope), 0) - 1
            finished |= state.finished
        return sorted(agent for agent, planned in times.items() if planned > 0), sorted(finished)

    def _arrived(self) -> dict[Join, set[str]]:
        """What AND joins have seen; of a join in several runs of a scope, the nearest one."""
        arrived: dict[Join, set[str]] = {}
        for state in self._scopes.values():
            for join, seen in state.arrived.items():
                if len(seen) > len(arrived.get(join, ())):
                    arrived[join] = seen
        return arrived

    def _entry(self, name: str) -> str:
        """What of the graph runs when `name` does: a subgraph begins at its start."""
        start = start_of(name)
        return start if start in self.app.graph.passive else name

    def _exit(self, name: str) -> str:
        """What of the graph has run when `name` has: a subgraph ends at its end."""
        if not name.endswith(INNER_START):
            return name
        return end_of(name.removesuffix(INNER_START))

    def _note_arrivals(self, state: _Scope, before: Iterable[str]) -> None:
        """Remember what AND joins have seen, and forget what they have used up."""
        for agent in before:
            for join in self.app.graph.and_joins_from(agent):
                state.arrived.setdefault(join, set()).add(agent)
        used_up = [
            join
            for join, seen in state.arrived.items()
            if join.target in state.planned and seen >= join.sources
        ]
        for join in used_up:
            del state.arrived[join]

    def _forget_inside(self, scope: str, holder: str, run: str) -> None:
        """Drop what nobody left of the scopes that `holder` held, unless other runs hold some."""
        if len(self._scopes) == 1 and (scope, run) in self._scopes:
            return
        left = []
        for path, other_run in self._scopes:
            if path == scope:
                if other_run != run:
                    return
            elif _is_within(path, holder):
                left.append((path, other_run))
        for each in left:
            del self._scopes[each]


class _Scope:
    """One scope's current step, and what its AND joins have seen so far."""

    def __init__(self, before: set[str], arrived: dict[Join, set[str]]) -> None:
        self.before = before
        """What the step came after."""
        self.planned: dict[str, int] = {}
        """How often each agent runs."""
        self.finished: set[str] = set()
        self.last_finished: str | None = None
        self.arrived = arrived

    def add(self, agent: str) -> None:
        self.planned[agent] = self.planned.get(agent, 0) + 1


def _is_within(scope: str, outer: str) -> bool:
    return outer in (ROOT, scope) or scope.startswith(f"{outer}/")
