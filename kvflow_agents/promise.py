"""When an agent was said to call, and when it did: what its forecasts are worth in time."""

from __future__ import annotations

from math import log2

# How much one call changes what is known of the last ones.
WEIGHT = 0.1
EARLIEST, LATEST = -2.0, 8.0
"""Powers of two by which a forecast is corrected."""


class Promise:
    """Corrects what is said of one agent's next call by how its calls have come before.

    A promise is what was first said after a call; it is kept until the next. Who always comes
    later than promised is expected later, and who is overdue is expected after as long again.
    """

    def __init__(self) -> None:
        self.kept = 0
        """How many calls have come that were promised."""
        self._slip = 0.0
        self._made_ms: int | None = None
        self._wait_ms = 1.0

    def make(self, at_ms: int, wait_ms: float) -> None:
        """At some time it was said that the agent calls after so long."""
        if self._made_ms is None:
            self._made_ms, self._wait_ms = at_ms, max(wait_ms, 1.0)

    def drop(self) -> None:
        """What was said is void: the run is over."""
        self._made_ms = None

    def keep(self, at_ms: int) -> None:
        """The agent calls."""
        if self._made_ms is None:
            return
        waited_ms = max(at_ms - self._made_ms, 1.0)
        off_by = log2(waited_ms / self._wait_ms) - self._slip
        weight = WEIGHT if self.kept else 1.0
        slip = self._slip + weight * off_by
        self._slip = min(max(slip, EARLIEST), LATEST)
        self.kept += 1
        self._made_ms = None

    def corrected_ms(self, wait_ms: float, now_ms: int) -> float:
        """After how long the agent will call, where that was said to be `wait_ms`."""
        factor: float = 2.0**self._slip
        if self._made_ms is not None:
            factor = max(factor, (now_ms - self._made_ms) / self._wait_ms)
        return wait_ms * factor
