"""Servers that refuse a hint: the call is made again without one, and they get none any more."""

from __future__ import annotations

import time
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from kvflow_agents.call_records import CallUnderWay
from kvflow_agents.failsafe import Failsafe, logger
from kvflow_agents.turns import give_back

failsafe = Failsafe("a model call")

# Bad request and unprocessable content: what strict servers say to a field they do not know. And
# what is said of bodies and headers that are too large, as only a hint may have made them.
STATUSES = (400, 413, 422, 431)


@dataclass(slots=True)
class Attempt:
    """One call of the SDK with all of its retries; the code inside it is at work on it."""

    is_plain: bool = False
    """Whether it is to go without a hint."""
    hinted_server: str | None = None
    started_s: float = field(default_factory=time.perf_counter)
    call: CallUnderWay | None = None
    """What is noted of it for the report."""
    _token: Token[Attempt | None] | None = None

    def __enter__(self) -> Self:
        self._token = attempt.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._token is not None, "left before it was entered"
        give_back(self._token)
        if error is not None and self.call is not None:
            failsafe(self.call.fail)


attempt: ContextVar[Attempt | None] = ContextVar("kvflow_attempt", default=None)


class Refusals:
    """Which servers have refused a hint."""

    def __init__(self) -> None:
        self.servers: set[str] = set()
        """They have, and get none any more."""

    def may_be(self, made: Attempt, status: int) -> bool:
        """Whether a hint can be why a call has failed. That it was bad anyway costs one more."""
        return made.hinted_server is not None and status in STATUSES

    def add(self, made: Attempt, status: int) -> None:
        """A call that failed with a hint has succeeded without it."""
        if made.hinted_server is not None:
            self.servers.add(made.hinted_server)
            logger.warning(
                "%s answers hints with status %d: it gets none any more", made.hinted_server, status
            )
