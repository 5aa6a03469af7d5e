"""The steps of scopes: what comes of them as agents begin and end, decided once for all runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from kvflow_agents.scopes import ROOT, entry_of, exit_of, start_of
from kvflow_agents.step_graph import Join, StepGraph

# Of each event and of the steps themselves. One takes 8 bytes for each of its agents.
MAX_REMEMBERED = 1024

Arrived = frozenset[tuple[Join, frozenset[str]]]
"""What AND joins have seen so far."""


@dataclass(frozen=True, slots=True, eq=False)
class ScopeStep:
    """One scope's step at one moment. As long as they are remembered, equal ones are the same."""

    before: tuple[str, ...] = ()
    """What the step came after."""
    planned: tuple[str, ...] = ()
    """The agents that run, sorted."""
    times: tuple[int, ...] = ()
    """How often each of them runs."""
    finished: tuple[str, ...] = ()
    """What has run in the step, sorted."""
    last_finished: str | None = None
    arrived: Arrived = frozenset()


NO_STEP = ScopeStep()


class Front(NamedTuple):
    """Where a run is, with all of its scopes."""

    planned: tuple[str, ...]
    finished: tuple[str, ...] = ()
    """What has run in the steps of now."""
    arrived: Arrived = frozenset()
    """Of a join in several runs of a scope, the nearest one's."""


class Finish(NamedTuple):
    """An agent has run."""

    after: ScopeStep
    agent: str
    """As the graph has it."""
    is_last: bool
    """Whether it no longer runs in this step."""


class Learn(Protocol):
    """Told of what follows what, before the step that shows it."""

    def __call__(
        self, before: Collection[str], planned: Collection[str], *, is_start: bool
    ) -> None: ...


class ScopeSteps:
    """An application's. Its runs go the same ways again and again: each way is gone once.

    What follows depends on the graph, and is learned as it is decided: a graph does not need to
    learn it again, and one that has grown begins anew. Safe to use from several threads.
    """

    def __init__(self, graph: StepGraph, learn: Learn) -> None:
        self._graph = graph
        self._learn = learn
        self._step = lru_cache(MAX_REMEMBERED)(ScopeStep)
        self.planned = lru_cache(MAX_REMEMBERED)(self._planned)
        """The step that agents begin, after a scope's last one."""
        self.pushed = lru_cache(MAX_REMEMBERED)(self._pushed)
        """A step, and one more agent that came after what has run."""
        self.joined = lru_cache(MAX_REMEMBERED)(self._joined)
        """A step at work, and one more agent beside it."""
        self.finished = lru_cache(MAX_REMEMBERED)(self._finished)
        """What has run when an agent has; None if it was not planned."""

    def _planned(self, scope: str, last: ScopeStep | None, agents: tuple[str, ...]) -> ScopeStep:
        planned = [entry_of(agent, self._graph) for agent in agents]
        ran = {start_of(scope)}
        if last is not None:
            ran = {exit_of(agent) for agent in (*last.planned, *last.finished)}
        self._learn(ran, planned, is_start=last is None)
        arrived = _arrivals(self._graph, (last or NO_STEP).arrived, ran, planned)
        return self._make(tuple(sorted(ran)), Counter(planned), (), None, arrived)

    def _pushed(self, scope: str, step: ScopeStep | None, agent: str) -> ScopeStep:
        step = step or NO_STEP
        entry = entry_of(agent, self._graph)
        before = (step.last_finished,) if step.last_finished else step.before
        self._learn(before or (start_of(scope),), {entry}, is_start=False)
        counts = _counts(step)
        counts[entry] = counts.get(entry, 0) + 1
        return self._make(step.before, counts, step.finished, step.last_finished, step.arrived)

    def _joined(self, scope: str, step: ScopeStep, agent: str) -> ScopeStep:
        # Nobody says beforehand that it will run beside them: next, it is expected after them.
        self._learn(step.planned, {entry_of(agent, self._graph)}, is_start=False)
        return self._pushed(scope, step, agent)

    def _finished(self, step: ScopeStep, agent: str) -> Finish | None:
        entry, counts = entry_of(agent, self._graph), _counts(step)
        if entry not in counts:
            return None
        counts[entry] -= 1
        is_last = not counts[entry]
        if is_last:
            del counts[entry]
        left = exit_of(entry)
        finished = tuple(sorted({*step.finished, left}))
        after = self._make(step.before, counts, finished, left, step.arrived)
        return Finish(after, entry, is_last)

    def _make(
        self,
        before: tuple[str, ...],
        counts: Mapping[str, int],
        finished: tuple[str, ...],
        last_finished: str | None,
        arrived: Arrived,
    ) -> ScopeStep:
        planned = tuple(sorted(counts))
        times = tuple([counts[agent] for agent in planned])
        return self._step(before, planned, times, finished, last_finished, arrived)


@lru_cache(MAX_REMEMBERED)
def front_of(at_work: tuple[tuple[str, ScopeStep], ...]) -> Front:
    """Where a run is whose scopes are at these steps."""
    times: Counter[str] = Counter()
    arrived: dict[Join, frozenset[str]] = {}
    for scope, step in at_work:
        times.update(_counts(step))
        if scope != ROOT:
            # A scope at work stands for the passive node at which it began.
            times[start_of(scope)] -= 1
        for join, seen in step.arrived:
            if len(seen) > len(arrived.get(join, ())):
                arrived[join] = seen
    planned = tuple(sorted(agent for agent, planned in times.items() if planned > 0))
    finished = tuple(sorted({agent for _, step in at_work for agent in step.finished}))
    return Front(planned, finished, frozenset(arrived.items()))


def _counts(step: ScopeStep) -> dict[str, int]:
    return dict(zip(step.planned, step.times, strict=True))


def _arrivals(
    graph: StepGraph, arrived: Arrived, before: Iterable[str], planned: Collection[str]
) -> Arrived:
    """What AND joins have seen after a step, without what they have used up."""
    seen_by = dict(arrived)
    for agent in before:
        for join in graph.and_joins_from(agent):
            seen_by[join] = seen_by.get(join, frozenset()) | {agent}
    return frozenset(
        (join, seen)
        for join, seen in seen_by.items()
        if join.target not in planned or not seen >= join.sources
    )
