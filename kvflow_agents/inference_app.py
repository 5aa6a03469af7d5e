"""An inferred application: who follows whom, counted from its runs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from kvflow_agents.app import App
from kvflow_agents.forecast import Steps
from kvflow_agents.scope_steps import Front
from kvflow_agents.step_graph import Join, StepGraph

MAX_AGENTS = 256
_MAX_SUCCESSORS = 16
# An agent's calls count half as much after so many more: applications change.
_MEMORY_CALLS = 32
# Who follows in a smaller share of the calls is no edge.
_FEWEST_SHARE = 0.2
# What is certain happens, and what is trusted has come true, at least so often.
_SURE_SHARE = 0.5
_FEWEST_TRIALS = 4


@dataclass(slots=True)
class _Successors:
    """What came after an agent's calls, of which `ended` were their workflow's last."""

    calls: int = 0
    ended: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def likely(self) -> list[str]:
        """Who follows often enough to be an edge of the graph."""
        return sorted(
            agent for agent, count in self.counts.items() if count >= _FEWEST_SHARE * self.calls
        )

    def are_certain(self) -> bool:
        """Whether something follows more likely than not, and it is known what."""
        likely = sum(self.counts[agent] for agent in self.likely())
        goes_on = self.calls - self.ended
        return goes_on >= _SURE_SHARE * (self.calls + 1) and likely >= _SURE_SHARE * self.calls

    def fade(self) -> None:
        """Halve the counts that have grown large."""
        if self.calls > _MEMORY_CALLS or len(self.counts) > _MAX_SUCCESSORS:
            self.calls //= 2
            self.ended //= 2
            halves = {agent: count // 2 for agent, count in self.counts.items()}
            self.counts = {agent: count for agent, count in halves.items() if count}


class LearnedApp:
    """Counts of who follows whom, with forgetting, as an agent step graph."""

    def __init__(self) -> None:
        self._successors: OrderedDict[str, _Successors] = OrderedDict()
        self._edges: dict[str, list[str]] = {}
        self._app: App | None = None
        # Of the times that somebody certain was to follow, how often it was so.
        self._trials = 0
        self._successes = 0

    def __len__(self) -> int:
        return len(self._successors)

    def follow(self, source: str, target: str | None, *, is_first: bool) -> None:
        """`target` (None: nobody known) came after a call of `source`, as the first or also."""
        successors = self._successors_of(source)
        if is_first and successors.are_certain():
            self._try(target in successors.likely())
        successors.calls += is_first
        if target is not None:
            successors.counts[target] = successors.counts.get(target, 0) + 1
        self._note(source, successors)

    def end(self, source: str) -> None:
        """Nothing came after a call of `source`."""
        successors = self._successors_of(source)
        successors.calls += 1
        successors.ended += 1
        self._note(source, successors)

    def resume(self, source: str) -> None:
        """Something comes after all, after a call that `end` was told of."""
        successors = self._successors_of(source)
        successors.calls = max(successors.calls - 1, 0)
        successors.ended = max(successors.ended - 1, 0)

    def likely_next(self, agent: str) -> str | None:
        """The agent that has followed most often."""
        successors = self._successors.get(agent)
        if successors is None or not successors.counts:
            return None
        return max(sorted(successors.counts), key=successors.counts.__getitem__)

    def steps(self, agent: str, *, running: Sequence[str], has_finished: bool) -> Steps | None:
        """Steps-to-execution while `running` are at work; None if what follows is not certain."""
        successors = self._successors.get(agent)
        if successors is None or not (self._is_trusted and successors.are_certain()):
            return None
        if self._app is None:
            joins = [Join(frozenset({a}), b) for a, each in self._edges.items() for b in each]
            self._app = App(StepGraph(joins))
        front = Front(tuple(running), (agent,) if has_finished else ())
        return self._app.outlook(front, most_agents=MAX_AGENTS).steps

    @property
    def _is_trusted(self) -> bool:
        return self._trials < _FEWEST_TRIALS or self._successes >= _SURE_SHARE * self._trials

    def _try(self, is_success: bool) -> None:
        self._trials += 1
        self._successes += is_success
        if self._trials > _MEMORY_CALLS:
            self._trials //= 2
            self._successes //= 2

    def _successors_of(self, source: str) -> _Successors:
        successors = self._successors.setdefault(source, _Successors())
        self._successors.move_to_end(source)
        if len(self._successors) > MAX_AGENTS:
            forgotten, _ = self._successors.popitem(last=False)
            self._edges.pop(forgotten, None)
            self._app = None
        return successors

    def _note(self, source: str, successors: _Successors) -> None:
        successors.fade()
        edges = successors.likely()
        if edges != self._edges.get(source):
            self._edges[source] = edges
            self._app = None
