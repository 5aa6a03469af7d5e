"""One live run of an application: what is planned now, and so what comes next."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable

from kvflow_agents.app import START, App, end_of, start_of
from kvflow_agents.forecast import Forecast, Steps
from kvflow_agents.hints import MAX_AGENTS, Hint
from kvflow_agents.step_graph import Join

ROOT = ""


class Workflow:
    """Follows a run, scope by scope, and forecasts it.

    A *scope* is a graph inside the run: the root is `""`, a subgraph has the path of the agent
    that holds it. Agents are named by their whole path. Safe to use from several threads.
    `first_seq` has to be larger than any `seq` an earlier run of the same name has used: the
    milliseconds of a clock will do.
    """

    def __init__(self, name: str, app: App, *, first_seq: int) -> None:
        self.name = name
        self.app = app
        self._seq = first_seq
        self._lock = threading.Lock()
        self._scopes: dict[str, _Scope] = {}
        self._arrived: dict[Join, set[str]] = {}
        self._callers: set[str] = set()
        self._steps: Steps | None = None
        self._ended: Forecast | None = None

    def plan(self, scope: str, agents: Collection[str]) -> None:
        """A scope begins its next step: all of its last step has run, `agents` run now."""
        with self._lock:
            for inner in [name for name in self._scopes if _is_inside(name, scope)]:
                del self._scopes[inner]
            planned = {self._entry(agent) for agent in agents}
            last = self._scopes.get(scope)
            before = {self._exit(name) for name in last.ran()} if last else {start_of(scope)}
            self.app.learn(before, planned, is_start=last is None)
            self._note_arrivals(before, planned)
            self._scopes[scope] = _Scope(planned)
            self._changed()

    def push(self, scope: str, agent: str) -> None:
        """One more agent joins the scope's current step."""
        with self._lock:
            state = self._scopes.setdefault(scope, _Scope())
            planned = self._entry(agent)
            before = {state.last_finished} if state.last_finished else {start_of(scope)}
            self.app.learn(before, {planned}, is_start=False)
            state.planned.add(planned)
            self._changed()

    def finish(self, scope: str, agent: str) -> None:
        """An agent has run in its scope's current step; others of the step may still be at it."""
        with self._lock:
            state = self._scopes.get(scope)
            planned = self._entry(agent)
            if state is None or planned not in state.planned:
                return
            self._scopes.pop(agent, None)
            state.planned.discard(planned)
            state.last_finished = self._exit(planned)
            state.finished.add(state.last_finished)
            self._changed()

    def leave(self, scope: str) -> None:
        """A scope has run to its end, though the node that holds it may go on."""
        with self._lock:
            if self._scopes.pop(scope, None) is not None:
                self._changed()

    def hint(self, agent: str) -> Hint:
        """The hint for a call that `agent` makes now."""
        with self._lock:
            if agent not in self._callers:
                self._callers.add(agent)
                self._changed()
            return self._hint(agent, self._forecast())

    def end(self, *, resumable: bool) -> Hint:
        """The run is over. A resumable one expects nobody for now; another is done for good."""
        with self._lock:
            steps: Steps = dict.fromkeys(self._callers) if resumable else {}
            self._seq += 1
            self._ended = Forecast(self._seq, steps, done=not resumable)
            return self._hint(None, self._ended)

    def _changed(self) -> None:
        self._steps = None

    def _forecast(self) -> Forecast:
        if self._ended is not None:
            return self._ended
        if self._steps is None:
            self._steps = self._look_ahead()
        self._seq += 1
        return Forecast(self._seq, self._steps)

    def _hint(self, agent: str | None, forecast: Forecast) -> Hint:
        return Hint(self.name, forecast, agent=agent, app=self.app.name)

    def _look_ahead(self) -> Steps:
        # A scope at work stands for the passive node at which it began.
        at_work = {start_of(scope) for scope in self._scopes if scope != ROOT}
        front: list[str] = []
        finished: list[str] = []
        for state in self._scopes.values():
            front += sorted(state.planned - at_work)
            finished += sorted(state.finished)
        outlook = self.app.graph.outlook(
            front, finished=finished, arrived=self._arrived, most_agents=MAX_AGENTS
        )
        steps: dict[str, int | None] = dict(list(outlook.steps.items())[:MAX_AGENTS])
        if outlook.is_closed:
            never_again = sorted(self._callers - steps.keys())
            steps.update(dict.fromkeys(never_again[: MAX_AGENTS - len(steps)]))
        return steps

    def _entry(self, name: str) -> str:
        """What of the graph runs when `name` does: a subgraph begins at its start."""
        start = start_of(name)
        return start if start in self.app.graph.passive else name

    def _exit(self, name: str) -> str:
        """What of the graph has run when `name` has: a subgraph ends at its end."""
        scope, _, last = name.rpartition("/")
        return end_of(scope) if last == START and scope else name

    def _note_arrivals(self, before: Iterable[str], planned: Collection[str]) -> None:
        """Remember what AND joins have seen, and forget what they have used up."""
        for agent in before:
            for join in self.app.graph.joins_from(agent):
                if len(join.sources) > 1:
                    self._arrived.setdefault(join, set()).add(agent)
        used_up = [
            join
            for join, seen in self._arrived.items()
            if join.target in planned and seen >= join.sources
        ]
        for join in used_up:
            del self._arrived[join]


class _Scope:
    """One scope's current step."""

    def __init__(self, planned: Iterable[str] = ()) -> None:
        self.planned = set(planned)
        self.finished: set[str] = set()
        self.last_finished: str | None = None

    def ran(self) -> set[str]:
        return self.planned | self.finished


def _is_inside(scope: str, outer: str) -> bool:
    return scope != outer and (outer == ROOT or scope.startswith(f"{outer}/"))
