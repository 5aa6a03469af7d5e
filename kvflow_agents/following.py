"""What follows the calls of one agent: who is next, who comes again at all, and how soon."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kvflow_agents.delays import Delay
from kvflow_agents.histogram import GROWTH, Histogram, bin_of

END = ""
"""Who calls after a workflow's last call: nobody."""
# With fewer than four events, which have faded a little, nothing is said.
LEAST_EVIDENCE = 3.9
# The structure's word weighs as much as one event, and what is known of all scenes as much as few.
DOUBT = 1.0
DOUBT_OF_SCENE = 4.0
MAX_FOLLOWERS = 64
# The times are read anew for each of the first looks, then for every fourth.
FIRST_LOOKS = 16
LOOKS_PER_READING = 4
_LARGEST_UNIT = 1e9


class Following:
    """Counts that fade: an event's weight halves with every 140 later ones of its kind."""

    def __init__(self) -> None:
        self._fates = 0.0
        self._unit = 1.0
        self._next: dict[str, float] = {}
        self._again: dict[str, float] = {}
        self._gaps: dict[str, Histogram] = {}
        self._looks = 0
        self._due_ms: dict[str, int] = {}

    @property
    def evidence(self) -> float:
        """How many calls it rests on, each of weight 1 when it was new."""
        return self._fates / self._unit

    @property
    def noted_calls(self) -> float:
        """At least how many calls are noted: the fate of those before a pause stays open."""
        gaps = next(iter(self._gaps.values()), None)
        return self.evidence if gaps is None else max(self.evidence, gaps.evidence)

    def note_gap(self, follower: str, place: int) -> None:
        """The first call of `follower` after a call; how long after, as `bin_of` has it."""
        gaps = self._gaps.get(follower)
        if gaps is None:
            if len(self._gaps) >= MAX_FOLLOWERS:
                del self._gaps[min(self._gaps, key=lambda name: self._gaps[name].evidence)]
            gaps = self._gaps[follower] = Histogram()
        gaps.count(place)

    def note_fate(self, followers: Collection[str]) -> None:
        """Who has called after one call, in that order; nobody else will be noted."""
        self._unit = unit = self._unit * GROWTH
        self._fates += unit
        _add(self._next, next(iter(followers), END), unit)
        again = self._again
        for follower in followers:
            if follower in again:
                again[follower] += unit
            else:
                _add(again, follower, unit)
        if unit > _LARGEST_UNIT:
            self._scale(1.0 / unit)

    def chance_next(
        self, agents: Collection[str], guesses: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Who makes the next call, `END` for nobody; {} if too little is known.

        Without better guesses the structure says that any of `agents` may, or nobody.
        """
        if self.evidence < LEAST_EVIDENCE:
            return {}
        doubt = (DOUBT_OF_SCENE if guesses else DOUBT) * self._unit
        if not guesses:
            guessed = {END, *agents}
            guesses = dict.fromkeys(guessed, 1.0 / len(guessed))
        whole = self._fates + doubt
        return {
            agent: (self._next.get(agent, 0.0) + doubt * guesses.get(agent, 0.0)) / whole
            for agent in guesses.keys() | self._next.keys()
        }

    def chance_again(
        self, agents: Mapping[str, int | None], guesses: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Whether each agent is called again in the workflow; {} if too little is known.

        Without better guesses the structure says no of those with None, and of the others: as
        likely as not.
        """
        if self.evidence < LEAST_EVIDENCE:
            return {}
        doubt = (DOUBT_OF_SCENE if guesses else DOUBT) * self._unit
        if not guesses:
            guesses = {agent: 0.5 for agent, steps in agents.items() if steps is not None}
        whole = self._fates + doubt
        again = self._again.get
        return {
            agent: (again(agent, 0.0) + doubt * guesses.get(agent, 0.0)) / whole for agent in agents
        }

    def due(self, agent: str) -> Delay | None:
        """The time to an agent's next call if there is one; None if too little is known."""
        gaps = self._gaps.get(agent)
        return gaps.delay() if gaps and gaps.evidence >= LEAST_EVIDENCE else None

    def due_ms(self) -> Mapping[str, int]:
        """The medians of all that are known, up to `LOOKS_PER_READING` looks old."""
        if self._looks < FIRST_LOOKS or self._looks % LOOKS_PER_READING == 0:
            self._due_ms = {
                agent: round(gaps.quantiles([0.5])[0])
                for agent, gaps in self._gaps.items()
                if gaps.evidence >= LEAST_EVIDENCE
            }
        self._looks += 1
        return self._due_ms

    def dump(self) -> dict[str, Any]:
        """All of it, as plain JSON."""
        self._scale(1.0 / self._unit)
        return {
            "fates": self._fates,
            "next": self._next,
            "again": self._again,
            "gaps": {agent: gaps.dump() for agent, gaps in self._gaps.items()},
        }

    @classmethod
    def load(cls, dumped: Any) -> Following:
        """What `dump` gave; ValueError, KeyError, TypeError or AttributeError if it is not that."""
        following = cls()
        following._fates = _weight(dumped["fates"])
        for name, into in (("next", following._next), ("again", following._again)):
            into.update((agent, _weight(one)) for agent, one in _few(dumped[name]))
        for agent, gaps in _few(dumped["gaps"]):
            following._gaps[agent] = Histogram.load(gaps)
        return following

    def _scale(self, factor: float) -> None:
        self._fates *= factor
        self._unit *= factor
        for counts in (self._next, self._again):
            for agent in list(counts):
                counts[agent] *= factor
                if counts[agent] < 0.001 * self._unit:
                    del counts[agent]


@dataclass(slots=True)
class Fate:
    """One call, and who has called after it, in that order."""

    at_s: float
    known: Sequence[Following]
    """What learns of it."""
    followers: dict[str, None] = field(default_factory=dict)

    def note_call(self, agent: str, now_s: float) -> None:
        """An agent calls for the first time since."""
        self.followers[agent] = None
        place = bin_of((now_s - self.at_s) * 1000.0)
        for each in self.known:
            each.note_gap(agent, place)

    def end(self) -> None:
        """Nothing more follows, or nothing that will be noted."""
        for each in self.known:
            each.note_fate(self.followers)


def _add(counts: dict[str, float], agent: str, weight: float) -> None:
    if agent not in counts and len(counts) >= MAX_FOLLOWERS:
        del counts[min(counts, key=counts.__getitem__)]
    counts[agent] = counts.get(agent, 0.0) + weight


def _few(dumped: Any) -> list[tuple[str, Any]]:
    return list(dumped.items())[:MAX_FOLLOWERS]


def _weight(value: Any) -> float:
    if not 0.0 <= float(value) <= 1e6:
        raise ValueError("a weight out of range")
    return float(value)
