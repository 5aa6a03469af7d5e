"""When an agent was said to call, and when it did: what its forecasts are worth in time."""

from __future__ import annotations

from math import log2

# How much one call changes what is known of the last ones.
WEIGHT = 0.1
EARLIEST, LATEST = -2.0, 8.0
"""Powers of two by which a forecast is corrected."""
# What lies within this power of two is taken for chance, and not corrected.
TOLERANCE = 1.0


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
        self._step_ms: float | None = None

    def make(self, at_ms: int, wait_ms: float, step_ms: float | None = None) -> None:
        """At some time it was said that the agent calls after so long.

        If that was said in steps, `step_ms` is what a step was taken to last.
        """
        if self._made_ms is None:
            self._made_ms, self._wait_ms, self._step_ms = at_ms, max(wait_ms, 1.0), step_ms

    def drop(self) -> None:
        """What was said is void: the run is over."""
        self._made_ms = None

    def keep(self, at_ms: int, step_ms: float = 1.0) -> None:
        """The agent calls; a step lasts so long by now."""
        if self._made_ms is None:
            return
        waited_ms = max(at_ms - self._made_ms, 1.0)
        off_by = log2(waited_ms / self._said_ms(step_ms)) - self._slip
        slip = self._slip + max(WEIGHT, 1 / (self.kept + 1)) * off_by
        self._slip = min(max(slip, EARLIEST), LATEST)
        self.kept += 1
        self._made_ms = None

    def corrected_ms(self, wait_ms: float, now_ms: int, step_ms: float = 1.0) -> float:
        """After how long the agent will call, where that was said to be `wait_ms`."""
        slip = max(self._slip - TOLERANCE, 0.0) + min(self._slip + TOLERANCE, 0.0)
        factor: float = 2.0**slip
        if self._made_ms is not None:
            overdue = (now_ms - self._made_ms) / self._said_ms(step_ms)
            if overdue > 2.0**TOLERANCE:
                factor = max(factor, overdue)
        return wait_ms * factor

    def _said_ms(self, step_ms: float) -> float:
        return self._wait_ms * (1.0 if self._step_ms is None else step_ms / self._step_ms)
