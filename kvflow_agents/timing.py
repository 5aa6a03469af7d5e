"""Timing: when agents are due and how likely; learned, or else composed along the graph."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeVar

from kvflow_agents.forecast import Figures, Steps
from kvflow_agents.habits import Habits
from kvflow_agents.scope_steps import Front
from kvflow_agents.step_delays import delays_ahead
from kvflow_agents.step_graph import StepGraph
from kvflow_agents.trail import Clock, Trail

K = TypeVar("K")
V = TypeVar("V")

MAX_REMEMBERED = 256
# Figures of a scene serve a quarter as many calls as they rest on, and at most so many.
MAX_USES = 16
# Workflows between two runs; beyond them the one that rests longest counts as ended.
MAX_PAUSED = 1024


@dataclass(slots=True)
class _Look:
    steps: Steps
    figures: tuple[Figures, Figures]
    uses: int


class Timing:
    """One application's; safe to use from several threads."""

    def __init__(self) -> None:
        self.habits = Habits()
        self._looks: dict[str, _Look] = {}
        self._composed: dict[object, tuple[StepGraph, int, Figures]] = {}
        self._paused: OrderedDict[str, Trail] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, workflow: str, clock: Clock) -> Trail:
        """The trail of a workflow that begins, or goes on after a pause."""
        with self._lock:
            return self._paused.pop(workflow, None) or Trail(self.habits, clock)

    def pause(self, workflow: str, trail: Trail) -> None:
        """A run of a workflow is over, which may go on: what follows is part of its trail."""
        trail.pause()
        with self._lock:
            self._paused[workflow] = trail
            excess = self._paused.popitem(last=False)[1] if len(self._paused) > MAX_PAUSED else None
        if excess is not None:
            excess.end()

    def figures(
        self,
        caller: str,
        steps: Steps,
        *,
        scene: str,
        trail: Trail,
        graph: StepGraph,
        front: Front,
    ) -> tuple[Figures, Figures]:
        """Due times in ms and chances in percent, as `caller` calls; agents unknown left out."""
        look = self._looks.get(scene)
        if look is not None and look.uses > 0 and (look.steps is steps or look.steps == steps):
            look.uses -= 1
            return look.figures
        trail.learn()
        due_ms, chance = self.habits.figures(caller, steps, scene)
        if self.habits.turns_seen and any(
            count and agent not in due_ms for agent, count in steps.items()
        ):
            due_ms = {**self._along(graph, steps, front), **due_ms}
        uses = min(int(self.habits.noted_calls(scene) / 4), MAX_USES)
        _put(self._looks, scene, _Look(steps, (due_ms, chance), uses))
        return due_ms, chance

    def _along(self, graph: StepGraph, steps: Steps, front: Front) -> Figures:
        """Medians along the graph, made again when it or the turns have changed enough."""
        key = (tuple(steps.items()), front.finished, front.arrived)
        age = _age(self.habits.turns_seen)
        of_graph, of_age, due_ms = self._composed.get(key, (None, None, {}))
        if of_graph is not graph or of_age != age:
            delays = delays_ahead(
                graph, steps, self.habits.turn, finished=front.finished, arrived=dict(front.arrived)
            )
            due_ms = {agent: round(delay.median) for agent, delay in delays.items()}
            _put(self._composed, key, (graph, age, due_ms))
        return due_ms


def _age(turns: int) -> int:
    """Grows with every eighth of the turns seen before."""
    return turns if turns < 8 else int(6 * math.log2(turns))


def _put(remembered: dict[K, V], key: K, value: V) -> None:
    if len(remembered) >= MAX_REMEMBERED:
        remembered.clear()
    remembered[key] = value
