"""Whether a workflow's forecasts come true; those that do not lose their influence."""

from __future__ import annotations

from kvflow_agents.forecast import Steps

BEST = 3
WORST = -3


class TrackRecord:
    """Counts calls that were forecast to come next against calls that were not.

    A forecast says the earliest possible step, so of a branch every way is right. It is wrong if
    an agent calls that was to come after others, or never again. An agent that it did not name
    tells nothing.
    """

    def __init__(self) -> None:
        # The benefit of the doubt: one wrong forecast is not the end.
        self._score = 2

    @property
    def is_good(self) -> bool:
        """Whether the forecasts were right more often than wrong of late."""
        return self._score > 0

    def note_call(self, agent: str, steps: Steps) -> None:
        """An agent calls; `steps` is what the last forecast before that said."""
        was_right = came_true(agent, steps)
        if was_right is None:
            return
        if was_right:
            self._score = min(self._score + 1, BEST)
        else:
            self._score = max(self._score - 1, WORST)


def came_true(agent: str, steps: Steps) -> bool | None:
    """Whether a forecast had `agent`, which calls now, come next; None if it did not name it."""
    return _was_next(steps[agent], steps) if agent in steps else None


def _was_next(said: int | None, steps: Steps) -> bool:
    if said is None or said <= 1:
        return said is not None
    return said == min(count for count in steps.values() if count is not None and count > 0)
