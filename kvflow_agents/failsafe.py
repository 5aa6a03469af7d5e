"""Our code inside the user's: whatever goes wrong in it stays in it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("kvflow_agents")


class Failsafe:
    """Calls functions whose failure must not reach the user's application.

    Hints are advisory, so this is the one place that catches every `Exception`: it counts all and
    logs the first. `what` names for the log what does without a hint.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.errors = 0

    def __call__(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """The function's result, or None if it failed."""
        try:
            return function(*args, **kwargs)
        except Exception:
            self.errors += 1
            if self.errors == 1:
                logger.warning(
                    "%s goes on without kvflow; further errors are only counted",
                    self.what,
                    exc_info=True,
                )
            return None
