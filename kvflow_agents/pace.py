"""How long a step of a workflow takes, on the clock of its messages."""

from __future__ import annotations

from kvflow_agents.forecast import Steps

# How long a step takes where nothing has shown it, and how much one step changes that.
STEP_MS = 1000.0
STEP_WEIGHT = 0.3


class Pace:
    """A moving average of how long steps take, as calls show it, or the ticks of a simulation.

    A call comes so many steps after the last one as was said. In a tick many agents call, one after
    the other, so there calls show nothing: one agent that is a step away shows when the next tick
    has begun, which says that it is none away. Nothing is known of ticks until the first has shown.
    """

    def __init__(self) -> None:
        self.step_ms = STEP_MS
        self.has_ticks = False
        """Whether it goes by ticks, as far as has been shown."""
        self._called_ms: int | None = None
        # An agent that was said to call in the next tick, and when.
        self._witness: tuple[str, int] | None = None

    def note_call(self, at_ms: int, caller: str, steps_said: int | None) -> None:
        """An agent calls, so many steps after the last call as was said, if anything was."""
        if self._witness is not None and self._witness[0] == caller:
            self._witness = None
        if self._called_ms is not None and at_ms > self._called_ms and not self.has_ticks:
            self._take_in((at_ms - self._called_ms) / max(steps_said or 1, 1), STEP_WEIGHT)
        self._called_ms = at_ms

    def note_changes(self, at_ms: int, steps: Steps) -> None:
        """It is told, without a call, in how many steps some agents call by now."""
        if self._witness is not None and self._witness[0] in steps:
            agent, since_ms = self._witness
            self._witness = None
            if steps[agent] == 0 and at_ms > since_ms:
                self._take_in(at_ms - since_ms, STEP_WEIGHT if self.has_ticks else 1.0)
                self.has_ticks = True
        if self._witness is None:
            found = next((agent for agent, away in steps.items() if away == 1), None)
            self._witness = None if found is None else (found, at_ms)

    def _take_in(self, step_ms: float, weight: float) -> None:
        self.step_ms += weight * (step_ms - self.step_ms)
