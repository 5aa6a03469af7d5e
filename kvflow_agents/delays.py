"""Delays: how long something takes, as a distribution, and how AND and OR joins combine them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

POINTS = 10
"""A delay is this many values of equal weight: its quantiles 0.05, 0.15 ... 0.95."""


@dataclass(frozen=True, slots=True)
class Delay:
    """A distribution of milliseconds: `POINTS` ascending values."""

    points: tuple[float, ...]

    def quantile(self, share: float) -> float:
        """Between the points linear, beyond the outermost flat."""
        place = min(max(share * POINTS - 0.5, 0.0), POINTS - 1.0)
        low = min(int(place), POINTS - 2)
        below, above = self.points[low], self.points[low + 1]
        return below + (above - below) * (place - low)

    @property
    def median(self) -> float:
        return self.quantile(0.5)


NOW = Delay((0.0,) * POINTS)


def then(first: Delay, second: Delay) -> Delay:
    """One after the other."""
    if first is NOW:
        return second
    return _thinned([one + other for one in first.points for other in second.points])


def latest(delays: Iterable[Delay]) -> Delay:
    """All of them, an AND join: the maximum."""
    last, *others = delays
    for delay in others:
        last = _thinned(
            [one if one > other else other for one in last.points for other in delay.points]
        )
    return last


def earliest(delays: Iterable[Delay]) -> Delay:
    """Any of them, an OR join: the minimum."""
    first, *others = delays
    for delay in others:
        first = _thinned(
            [one if one < other else other for one in first.points for other in delay.points]
        )
    return first


def _thinned(pairs: list[float]) -> Delay:
    """Of all pairs of points, as if independent, each tenth in order is a point again."""
    pairs.sort()
    return Delay(tuple(pairs[POINTS // 2 :: POINTS]))
