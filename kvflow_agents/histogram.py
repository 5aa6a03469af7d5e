"""Times that were seen: a histogram on a logarithmic scale, whose past fades."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from kvflow_agents.delays import POINTS, Delay

# Four bins an octave: a bin's ends differ by 19%, less than any forecast here is sure of.
BINS_PER_OCTAVE = 4
# A year in milliseconds; what takes longer counts as that.
LONGEST_MS = 31_536_000_000
# Events of the past weigh 0.995 to the power of their age: about 200 of them count.
GROWTH = 1 / 0.995
_LAST_BIN = int(math.log2(LONGEST_MS + 1.0) * BINS_PER_OCTAVE)
_LARGEST_UNIT = 1e9


def bin_of(ms: float) -> int:
    """Where a time is counted."""
    if not 0.0 <= ms <= LONGEST_MS:
        ms = LONGEST_MS if ms > 0.0 else 0.0
    return int(math.log2(ms + 1.0) * BINS_PER_OCTAVE)


class Histogram:
    """Milliseconds on a logarithmic scale; the past fades. At most some 140 bins."""

    __slots__ = ("_total", "_unit", "_weights")
    _weights: dict[int, float]
    _total: float
    _unit: float

    def __init__(self) -> None:
        self._set({})

    @property
    def evidence(self) -> float:
        """How many events it rests on, each of weight 1 when it was new."""
        return self._total / self._unit

    def add(self, ms: float) -> None:
        """Count one event."""
        self.count(bin_of(ms))

    def count(self, place: int) -> None:
        """Count one event whose bin is known."""
        # Instead of all the old weights shrinking, the new one grows.
        self._unit = unit = self._unit * GROWTH
        self._weights[place] = self._weights.get(place, 0.0) + unit
        self._total += unit
        if unit > _LARGEST_UNIT:
            self._set(self._in_events())

    def dump(self) -> dict[str, float]:
        """Bin to weight, as plain JSON."""
        return {str(place): weight for place, weight in self._in_events().items()}

    @classmethod
    def load(cls, dumped: Any) -> Histogram:
        """What `dump` gave; ValueError, TypeError or AttributeError if it is not that."""
        weights = {int(place): float(weight) for place, weight in dumped.items()}
        if not all(0 <= place <= _LAST_BIN for place in weights):
            raise ValueError("a bin out of range")
        if not all(0.0 < weight <= 1e6 for weight in weights.values()):
            raise ValueError("a weight out of range")
        histogram = cls()
        histogram._set(weights)
        return histogram

    def delay(self) -> Delay:
        """The distribution; there has to be some evidence."""
        return Delay(tuple(self.quantiles([(n + 0.5) / POINTS for n in range(POINTS)])))

    def _set(self, weights: dict[int, float]) -> None:
        self._weights = weights
        self._total = sum(weights.values())
        self._unit = 1.0

    def _in_events(self) -> dict[int, float]:
        """Weights in events; bins that are nearly forgotten are left out."""
        return {
            place: weight / self._unit
            for place, weight in self._weights.items()
            if weight > 0.001 * self._unit
        }

    def quantiles(self, shares: Iterable[float]) -> list[float]:
        """Quantiles in milliseconds, for ascending shares; inside a bin evenly on its scale."""
        found = []
        bins = iter(sorted(self._weights.items()))
        place, weight = next(bins)
        below = 0.0
        for share in shares:
            wanted = share * self._total
            while below + weight < wanted and (following := next(bins, None)) is not None:
                below += weight
                place, weight = following
            inside = min((wanted - below) / weight, 1.0)
            found.append(2.0 ** ((place + inside) / BINS_PER_OCTAVE) - 1.0)
        return found
