"""Habits: what an application's runs have taught of who follows whom, and how soon."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from collections.abc import Collection
from math import ceil
from typing import Any, TypeVar

from kvflow_agents import process
from kvflow_agents.delays import Delay
from kvflow_agents.following import LEAST_EVIDENCE, Fate, Following
from kvflow_agents.forecast import Figures, Steps
from kvflow_agents.histogram import Histogram

E = TypeVar("E", Following, Histogram)

# Agents of one application of which something is known; the one silent longest is forgotten.
MAX_CALLERS = 64
MAX_SCENES = 128
# Calls of an agent after which not every further one is noted.
WELL_KNOWN = 64.0


class Habits:
    """Learns online, forgets, and is bounded; safe to use from several threads.

    Every pair of agents is kept apart, and so are repeats (an agent that calls again) and
    switches. What follows a call is learned twice: after calls of that agent, and after those
    in the same scene, where as much is known of it.
    """

    def __init__(self, seed: int = 0) -> None:
        self.turns_seen = 0
        self._callers: OrderedDict[str, Following] = OrderedDict()
        self._scenes: OrderedDict[str, Following] = OrderedDict()
        self._turns: OrderedDict[str, Histogram] = OrderedDict()
        self._chance = random.Random(seed)
        self._begin()
        process.in_forked_child.add(self._begin)

    def _begin(self) -> None:
        # Its parent's store may have been at work on them.
        self._lock = threading.Lock()

    def note_call(
        self, agent: str, scene: str, now_s: float, earlier: Collection[Fate]
    ) -> Fate | None:
        """An agent calls, for the first time since these earlier calls.

        None if it is not worth noting what follows this one: of an agent that is well known,
        chance picks each fourth, which costs a fourth. In all its scenes alike, or one would count
        more.
        """
        with self._lock:
            for fate in earlier:
                fate.note_call(agent, now_s)
            known = _of(agent, self._callers, MAX_CALLERS)
            if known.noted_calls >= WELL_KNOWN and self._chance.random() >= 0.25:
                return None
            return Fate(now_s, (known, _of(scene, self._scenes, MAX_SCENES)))

    def note_fates(self, fates: Collection[Fate]) -> None:
        """Nothing more follows these calls, or nothing that will be noted."""
        with self._lock:
            for fate in fates:
                fate.end()

    def note_turn(self, agent: str, ms: float) -> None:
        """An agent was at work this long: its calls and its tools."""
        with self._lock:
            self.turns_seen += 1
            self._turns.setdefault(agent, Histogram()).add(ms)
            self._turns.move_to_end(agent)
            if len(self._turns) > MAX_CALLERS:
                self._turns.popitem(last=False)

    def turn(self, agent: str) -> Delay | None:
        """How long an agent is at work; None if too little is known."""
        with self._lock:
            turn = self._turns.get(agent)
            return turn.delay() if turn and turn.evidence >= LEAST_EVIDENCE else None

    def figures(
        self, caller: str, steps: Steps, scene: str | None = None
    ) -> tuple[Figures, Figures]:
        """Due times in ms and chances in percent of the agents of `steps`, as a caller calls."""
        with self._lock:
            due_ms: dict[str, int] = {}
            for known in self._closer_and_closer(caller, scene):
                due_ms |= {agent: ms for agent, ms in known.due_ms().items() if agent in steps}
            chances = self._chance_again(caller, steps, scene)
        return due_ms, {agent: round(100.0 * chance) for agent, chance in chances.items()}

    def noted_calls(self, scene: str) -> float:
        """How many calls in a scene its figures rest on, at least."""
        with self._lock:
            known = self._scenes.get(scene)
            return 0.0 if known is None else known.noted_calls

    def chance_next(
        self, caller: str, agents: Collection[str] = (), scene: str | None = None
    ) -> dict[str, float]:
        """Who calls after a caller; `agents` may by the structure. {}: too little is known."""
        with self._lock:
            chances: dict[str, float] = {}
            for known in self._closer_and_closer(caller, scene):
                chances = known.chance_next(agents, chances) or chances
            return chances

    def chance_again(self, caller: str, steps: Steps, scene: str | None = None) -> dict[str, float]:
        """Whether agents are called again after a caller's call; {}: too little is known."""
        with self._lock:
            return self._chance_again(caller, steps, scene)

    def due(self, caller: str, agent: str, scene: str | None = None) -> Delay | None:
        """The time from a caller's call to an agent's next, if there is one; None: unknown."""
        with self._lock:
            due = None
            for known in self._closer_and_closer(caller, scene):
                due = known.due(agent) or due
            return due

    def dump(self) -> dict[str, Any]:
        """All of it, as plain JSON."""
        with self._lock:
            return {
                "callers": {agent: known.dump() for agent, known in self._callers.items()},
                "scenes": {scene: known.dump() for scene, known in self._scenes.items()},
                "turns": {agent: turn.dump() for agent, turn in self._turns.items()},
            }

    def load(self, dumped: Any) -> None:
        """Take in what `dump` gave, where less is known; ValueError if it is not that."""
        try:
            callers = {
                agent: Following.load(one) for agent, one in _few(dumped["callers"], MAX_CALLERS)
            }
            scenes = {
                scene: Following.load(one)
                for scene, one in _few(dumped.get("scenes", {}), MAX_SCENES)
            }
            turns = {
                agent: Histogram.load(one) for agent, one in _few(dumped["turns"], MAX_CALLERS)
            }
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not habits: {error!r}") from error
        with self._lock:
            self._callers = _best(callers, self._callers, MAX_CALLERS)
            self._scenes = _best(scenes, self._scenes, MAX_SCENES)
            self._turns = _best(turns, self._turns, MAX_CALLERS)
            # What was learned in another process counts as seen, so that it is used at once.
            known = sum(ceil(turn.evidence) for turn in self._turns.values())
            self.turns_seen = max(self.turns_seen, known)

    def _chance_again(self, caller: str, steps: Steps, scene: str | None) -> dict[str, float]:
        chances: dict[str, float] = {}
        for known in self._closer_and_closer(caller, scene):
            chances = known.chance_again(steps, chances) or chances
        return chances

    def _closer_and_closer(self, caller: str, scene: str | None) -> list[Following]:
        """What is known of a caller, then of the scene: each outdoes what precedes it."""
        found = self._callers.get(caller), None if scene is None else self._scenes.get(scene)
        return [known for known in found if known is not None]


def _of(name: str, all_known: OrderedDict[str, Following], most: int) -> Following:
    known = all_known.get(name)
    if known is None:
        known = all_known[name] = Following()
        if len(all_known) > most:
            all_known.popitem(last=False)
    else:
        all_known.move_to_end(name)
    return known


def _best(kept: dict[str, E], live: OrderedDict[str, E], most: int) -> OrderedDict[str, E]:
    best = OrderedDict(kept)
    for name, known in live.items():
        if name not in kept or known.evidence >= kept[name].evidence:
            best[name] = known
        best.move_to_end(name)
    while len(best) > most:
        best.popitem(last=False)
    return best


def _few(dumped: Any, most: int) -> list[tuple[str, Any]]:
    return list(dumped.items())[-most:]
