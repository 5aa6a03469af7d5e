"""A forecast: when each agent of one workflow will call next, as seen at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Steps = Mapping[str, int | None]
"""Agent to steps-to-execution. 0: planned in the current step; None: not expected again, or in a
later run if it has a `due_ms`; an agent that is missing: unknown."""
Figures = Mapping[str, int]
"""Agent to a figure that was learned; an agent that is missing: unknown."""

_NOTHING: Mapping[str, Any] = {}


# A tuple, for each call makes one: a frozen dataclass takes five times as long.
class Forecast(NamedTuple):
    """What a workflow expects, and how it compares in age: a larger `seq` is newer."""

    seq: int
    steps: Steps = _NOTHING
    done: bool = False
    changes: bool = False
    """Whether `steps` amends what was told before: an agent it does not name keeps its steps."""
    due_ms: Figures = _NOTHING
    """Time to the agent's next call if there is one: the median."""
    chance: Figures = _NOTHING
    """Percent: how likely the workflow calls the agent again."""
    loras: Mapping[str, str] = _NOTHING
    """Agent to the LoRA adapter it will call with; an agent that is missing: unknown."""

    @property
    def expects_nobody(self) -> bool:
        """Whether the run is over, for good or until it is resumed."""
        is_whole = bool(self.steps) and not self.changes
        return self.done or (is_whole and all(steps is None for steps in self.steps.values()))
