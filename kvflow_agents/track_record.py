"""Whether a workflow's forecasts come true; those that do not lose their influence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

BEST = 3
WORST = -3


class Expected(Protocol):
    """What was said last of a workflow's agents."""

    @property
    def steps(self) -> Mapping[str, int | None]: ...

    def nearest(self) -> int | None:
        """The smallest steps above 0 that any agent is at."""


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

    def note_call(self, was_right: bool | None) -> None:
        """An agent calls; whether what was said before had it `came_true`."""
        if was_right is None:
            return
        if was_right:
            self._score = min(self._score + 1, BEST)
        else:
            self._score = max(self._score - 1, WORST)


def came_true(agent: str, expected: Expected) -> bool | None:
    """Whether an agent that calls now was to come next; None if nothing was said of it."""
    if agent not in expected.steps:
        return None
    said = expected.steps[agent]
    if said is None or said <= 1:
        return said is not None
    return said == expected.nearest()
