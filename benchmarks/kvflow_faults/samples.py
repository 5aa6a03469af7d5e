"""Figures over time, and whether they grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

Sample = Mapping[str, int]
"""What was seen at one time; a figure that is not there is 0."""
FEWEST = 4


class Growth(NamedTuple):
    """A figure's largest value in the second quarter of a time, and its smallest in the last.

    The first quarter is left out: tables fill, and code runs for the first time. What goes up and
    down has its lows in the last quarter too, so that only what grows is larger then.
    """

    before: int
    after: int

    @property
    def size(self) -> int:
        """By how much all that was last seen exceeds all that was seen before; 0 if it does not."""
        return max(self.after - self.before, 0)


def growth(values: Sequence[int]) -> Growth:
    """Of one figure, seen four times at least."""
    quarter = len(values) // FEWEST
    return Growth(max(values[quarter : 2 * quarter]), min(values[-quarter:]))


def counted(values: Sequence[int]) -> int:
    """What a counter has gone up by; with a new life of its server it begins at 0 again."""
    steps = pairwise(values)
    return sum(now - before if now >= before else now for before, now in steps)


def series(samples: Sequence[Sample], name: str) -> list[int]:
    """One figure over time."""
    return [sample.get(name, 0) for sample in samples]
