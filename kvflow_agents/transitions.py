"""Who followed whom: counts from the calls of workflows, per application, for those who look on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field

Edge = tuple[str, str, int]
"""Who called before, who after, and how often that was seen."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is counted. Beyond it what was seen longest ago, or least often, goes."""

    most_apps: int = 128
    most_edges: int = 1024
    """Of one application."""
    most_workflows: int = 1024
    """Whose last calls are remembered."""
    most_at_work: int = 64
    """Agents of one step of a workflow that count as predecessors of the next."""


@dataclass(slots=True)
class _Front:
    """The calls of a workflow's current step, and of the step before."""

    app: str
    before: tuple[str, ...] = ()
    now: dict[str, None] = field(default_factory=dict)
    planned: frozenset[str] = frozenset()


class Transitions:
    """Edges between agents as calls have shown them. Pure and bounded.

    Hints name steps, no edges. An agent that a step's first call had said to be at work in that
    same step runs beside it, and follows whoever came before; any other call begins the next step.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._edges: OrderedDict[str, dict[tuple[str, str], int]] = OrderedDict()
        self._fronts: OrderedDict[str, _Front] = OrderedDict()

    def called(
        self, workflow: str, app: str | None, agent: str, planned: Collection[str] = ()
    ) -> None:
        """An agent calls; `planned`: who is at work in its step, as its hint has it."""
        key = _key(workflow, app)
        front = self._fronts.get(workflow)
        if front is None or front.app != key:
            front = self._fronts[workflow] = _Front(key)
        self._fronts.move_to_end(workflow)
        if agent in front.now:
            self._count(key, [agent], agent)
        else:
            if agent not in front.planned:
                front.before, front.now = tuple(front.now), {}
                front.planned = frozenset(planned)
            if len(front.now) < self._limits.most_at_work:
                front.now[agent] = None
            self._count(key, front.before, agent)
        while len(self._fronts) > self._limits.most_workflows:
            self._fronts.popitem(last=False)

    def ended(self, workflow: str) -> None:
        """A workflow has ended: a later run of the same name follows nobody."""
        self._fronts.pop(workflow, None)

    def edges(
        self, workflow: str, app: str | None, agents: Collection[str], *, most: int
    ) -> list[Edge]:
        """The edges among these agents, most frequent first."""
        counts = self._edges.get(_key(workflow, app), {})
        among = [
            (source, target, count)
            for (source, target), count in counts.items()
            if source in agents and target in agents
        ]
        among.sort(key=lambda edge: (-edge[2], edge[0], edge[1]))
        return among[:most]

    def _count(self, key: str, sources: Collection[str], target: str) -> None:
        counts = self._edges.setdefault(key, {})
        self._edges.move_to_end(key)
        for source in sources:
            counts[source, target] = counts.get((source, target), 0) + 1
        if len(counts) > self._limits.most_edges:
            self._fade(counts)
        while len(self._edges) > self._limits.most_apps:
            self._edges.popitem(last=False)

    def _fade(self, counts: dict[tuple[str, str], int]) -> None:
        """Halve the counts; those seen once go, and the oldest if there are still too many."""
        halves = {edge: count // 2 for edge, count in counts.items() if count > 1}
        kept = list(halves.items())[-self._limits.most_edges // 2 :]
        counts.clear()
        counts.update(kept)


def _key(workflow: str, app: str | None) -> str:
    # Only an application has a fingerprint; names of both kinds must not meet.
    return f"app {app}" if app is not None else f"workflow {workflow}"
