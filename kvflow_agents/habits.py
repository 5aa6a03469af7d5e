"""Habits: what an application's runs have taught of who follows whom, and how soon."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

from kvflow_agents.delays import Delay
from kvflow_agents.following import LEAST_EVIDENCE, Fate, Following
from kvflow_agents.forecast import Figures, Steps
from kvflow_agents.histogram import Histogram

E = TypeVar("E", Following, Histogram)

# Agents of one application of which something is known; the one silent longest is forgotten.
MAX_CALLERS = 64
# Calls of an agent after which not every further one is noted.
WELL_KNOWN = 32.0


class Habits:
    """Learns online, forgets, and is bounded; safe to use from several threads.

    Every pair of agents is kept apart, and so are repeats (an agent that calls again) and
    switches.
    """

    def __init__(self, seed: int = 0) -> None:
        self.turns_seen = 0
        self._callers: OrderedDict[str, Following] = OrderedDict()
        self._turns: OrderedDict[str, Histogram] = OrderedDict()
        self._chance = random.Random(seed)
        self._lock = threading.Lock()

    def note_call(self, agent: str, earlier: Sequence[Fate]) -> bool:
        """An agent calls: how long after these earlier calls is known now.

        Whether it is worth noting what follows this call: of an agent that is well known, chance
        picks each fourth, which costs a fourth.
        """
        with self._lock:
            for fate in earlier:
                self._following(fate.agent).note_gap(agent, fate.gaps_ms[agent])
            known = self._following(agent)
            self._callers.move_to_end(agent)
            return known.evidence < WELL_KNOWN or self._chance.random() < 0.25

    def note_fates(self, fates: Collection[Fate]) -> None:
        """Nothing more follows these calls, or nothing that will be noted."""
        with self._lock:
            for fate in fates:
                self._following(fate.agent).note_fate(fate)

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

    def figures(self, caller: str, steps: Steps) -> tuple[Figures, Figures]:
        """Due times in ms and chances in percent of the agents of `steps`, as a caller calls."""
        with self._lock:
            known = self._callers.get(caller)
            if known is None:
                return {}, {}
            due_ms = {agent: ms for agent, ms in known.due_ms().items() if agent in steps}
            chances = known.chance_again(steps)
        return due_ms, {agent: round(100.0 * chance) for agent, chance in chances.items()}

    def evidence(self, caller: str) -> float:
        """How many calls of an agent its figures rest on."""
        with self._lock:
            known = self._callers.get(caller)
            return 0.0 if known is None else known.evidence

    def chance_next(self, caller: str, agents: Iterable[str] = ()) -> dict[str, float]:
        """Who calls after a caller; `agents` may by the structure. {}: too little is known."""
        with self._lock:
            known = self._callers.get(caller)
            return {} if known is None else known.chance_next(agents)

    def chance_again(self, caller: str, steps: Steps) -> dict[str, float]:
        """Whether agents are called again after a caller's call; {}: too little is known."""
        with self._lock:
            known = self._callers.get(caller)
            return {} if known is None else known.chance_again(steps)

    def due(self, caller: str, agent: str) -> Delay | None:
        """The time from a caller's call to an agent's next, if there is one; None: unknown."""
        with self._lock:
            known = self._callers.get(caller)
            return None if known is None else known.due(agent)

    def dump(self) -> dict[str, Any]:
        """All of it, as plain JSON."""
        with self._lock:
            return {
                "callers": {agent: known.dump() for agent, known in self._callers.items()},
                "turns": {agent: turn.dump() for agent, turn in self._turns.items()},
            }

    def load(self, dumped: Any) -> None:
        """Take in what `dump` gave, where less is known; ValueError if it is not that."""
        try:
            callers = {agent: Following.load(one) for agent, one in _few(dumped["callers"])}
            turns = {agent: Histogram.load(one) for agent, one in _few(dumped["turns"])}
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not habits: {error!r}") from error
        with self._lock:
            self._callers = _best(callers, self._callers)
            self._turns = _best(turns, self._turns)

    def _following(self, agent: str) -> Following:
        known = self._callers.get(agent)
        if known is None:
            known = self._callers[agent] = Following()
            if len(self._callers) > MAX_CALLERS:
                self._callers.popitem(last=False)
        return known


def _best(kept: dict[str, E], live: OrderedDict[str, E]) -> OrderedDict[str, E]:
    best = OrderedDict(kept)
    for agent, known in live.items():
        if agent not in kept or known.evidence >= kept[agent].evidence:
            best[agent] = known
        best.move_to_end(agent)
    while len(best) > MAX_CALLERS:
        best.popitem(last=False)
    return best


def _few(dumped: Any) -> list[tuple[str, Any]]:
    return list(dumped.items())[-MAX_CALLERS:]
