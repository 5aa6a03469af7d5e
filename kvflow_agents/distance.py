"""Invocation distance: how long until a simulated agent calls its model (ScaleSim, section 3.2).

A distance is a number of ticks, 0 or more: 0 is within the current tick, `NEVER` is not as things
stand, None is unknown. Every provider answers for any agent, vanished ones included, and what the
simulation holds may be zero, NaN or infinite: where no number comes out, the distance is unknown.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kvflow_agents.errors import ConfigurationError
from kvflow_agents.failsafe import Failsafe

NEVER = math.inf

Position = Sequence[float]
"""A point, in any number of dimensions."""


class Distance(Protocol):
    """Says how far agents are from their next call; the simulation's own, or one of these."""

    def ticks(self, agent: str) -> float | None:
        """Ticks until the agent's next call, `NEVER`, or None if unknown."""


@dataclass(frozen=True)
class ActionTime:
    """Independent agents: they call when their current action ends.

    `remaining` has the time left of each agent's action, in the unit of `tick`. An action that
    ends within the current tick is at 0, as with ScaleSim's PlanManager.
    """

    remaining: Mapping[str, float | None]
    tick: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("tick", self.tick)

    def ticks(self, agent: str) -> float | None:
        """Ticks after this one until the action has ended."""
        left = _known(self.remaining.get(agent))
        return None if left is None else max(0.0, _ceil(left / self.tick) - 1)


MeetsIn = Callable[[str, str], float | None]
"""Time until two agents meet: `NEVER` if they do not, None if unknown."""


@dataclass(frozen=True)
class Approach:
    """Agents meet when they are within `reach`; at the earliest, when both walk straight there."""

    positions: Mapping[str, Position]
    speeds: Mapping[str, float]
    reach: float = 0.0

    def __post_init__(self) -> None:
        _require_not_negative("reach", self.reach)

    def __call__(self, agent: str, other: str) -> float | None:
        """The way between them over the speed at which it can shrink."""
        way = _way(self.positions.get(agent), self.positions.get(other))
        speeds = _known(self.speeds.get(agent)), _known(self.speeds.get(other))
        if way is None or speeds[0] is None or speeds[1] is None:
            return None
        return _travel(way - self.reach, sum(max(0.0, speed) for speed in speeds if speed))


@dataclass(frozen=True)
class Rendezvous:
    """Agents on their way to the same place meet when the later of the two has arrived.

    `ways` has what is left of each agent's way, 0 for one that is there. ScaleSim's SpaceManager.
    """

    places: Mapping[str, Hashable]
    ways: Mapping[str, float]
    speeds: Mapping[str, float]

    def __call__(self, agent: str, other: str) -> float | None:
        """The longer of the two ways, in time."""
        place = self.places.get(agent)
        if place is None or place != self.places.get(other):
            return None if place is None else NEVER
        arrivals = self._arrives_in(agent), self._arrives_in(other)
        if arrivals[0] is None or arrivals[1] is None:
            return None
        return max(arrivals[0], arrivals[1])

    def _arrives_in(self, agent: str) -> float | None:
        way, speed = _known(self.ways.get(agent)), _known(self.speeds.get(agent))
        return None if way is None or speed is None else _travel(way, speed)


@dataclass(frozen=True)
class Interaction:
    """Agents that call when they meet: the nearest meeting with anyone but themselves.

    `others` names whom an agent may meet (who lives near, a predicted partner); asking costs
    O(others). After a meeting an agent rests for `rests`, and still has to get there.
    """

    meets_in: MeetsIn
    others: Callable[[str], Iterable[str]]
    rests: Mapping[str, float] = field(default_factory=dict)
    tick: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("tick", self.tick)

    def ticks(self, agent: str) -> float | None:
        """Ticks until the first meeting after its rest; `NEVER` if there is nobody to meet."""
        meetings = [self.meets_in(agent, other) for other in self.others(agent) if other != agent]
        nearest = _least(meetings) if meetings else NEVER
        rest = _known(self.rests.get(agent, 0.0))
        if nearest is None or rest is None:
            return None
        return max(0.0, _ceil(max(nearest, rest) / self.tick))


class Hops:
    """A predefined path: the fewest hops from any agent that is active now (the third class).

    `edges` leads from each agent to those that may come after it. Nobody is active at first.
    """

    def __init__(self, edges: Mapping[str, Iterable[str]]) -> None:
        self._edges = {agent: tuple(following) for agent, following in edges.items()}
        self._agents = {*self._edges, *(each for ends in self._edges.values() for each in ends)}
        self._hops: dict[str, int] = {}

    def activate(self, front: Iterable[str]) -> None:
        """These agents are active now, and no others. Costs O(edges)."""
        self._hops = dict.fromkeys(front, 0)
        queue = deque(self._hops)
        while queue:
            agent = queue.popleft()
            for following in self._edges.get(agent, ()):
                if following not in self._hops:
                    self._hops[following] = self._hops[agent] + 1
                    queue.append(following)

    def ticks(self, agent: str) -> float | None:
        """Hops to the agent; `NEVER` if no path leads there, None if it is on none."""
        return self._hops.get(agent, NEVER if agent in self._agents else None)


class Nearest:
    """Whatever comes first of several distances; what is unknown does not count."""

    def __init__(self, *distances: Distance) -> None:
        if not distances:
            raise ConfigurationError("Nearest needs at least one distance")
        self._distances = distances

    def ticks(self, agent: str) -> float | None:
        """The smallest of them."""
        return _least(distance.ticks(agent) for distance in self._distances)


def measure(
    distance: Distance, agents: Iterable[str], failsafe: Failsafe | None = None
) -> dict[str, float | None]:
    """Every agent's distance; it is unknown where the provider fails."""
    ask = failsafe or Failsafe("a simulation")
    return {agent: ask(distance.ticks, agent) for agent in agents}


def _least(distances: Iterable[float | None]) -> float | None:
    known = [each for each in distances if each is not None and not math.isnan(each)]
    return min(known, default=None)


def _travel(way: float, speed: float) -> float:
    if way <= 0:
        return 0.0
    return way / speed if speed > 0 else NEVER


def _way(here: Position | None, there: Position | None) -> float | None:
    if here is None or there is None or len(here) != len(there):
        return None
    return _known(math.dist(here, there))


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _ceil(value: float) -> float:
    return float(math.ceil(value)) if math.isfinite(value) else value


def _require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigurationError(f"{name} must be a number above 0, not {value!r}")


def _require_not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ConfigurationError(f"{name} must be a number of 0 or more, not {value!r}")
