"""Delays: how long something takes, as a distribution, and how AND and OR joins combine them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    return _combined(first, second, lambda one, other: one + other)


def latest(delays: Iterable[Delay]) -> Delay:
    """All of them, an AND join: the maximum."""
    return _fold(delays, max)


def earliest(delays: Iterable[Delay]) -> Delay:
    """Any of them, an OR join: the minimum."""
    return _fold(delays, min)


def _fold(delays: Iterable[Delay], choose: Callable[[float, float], float]) -> Delay:
    first, *others = delays
    for other in others:
        first = _combined(first, other, choose)
    return first


def _combined(one: Delay, other: Delay, join: Callable[[float, float], float]) -> Delay:
    """Every pair of points as if independent; of the sorted pairs each tenth is a point again."""
    if one is NOW and other is NOW:
        return NOW
    pairs = sorted(join(a, b) for a in one.points for b in other.points)
    return Delay(tuple(pairs[POINTS // 2 :: POINTS]))
