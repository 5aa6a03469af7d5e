"""The patch: a run of Pydantic AI, with a word to the observer before and after."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from kvflow_agents.failsafe import Failsafe
from kvflow_agents.patches import Method, Patch
from kvflow_pydantic_ai._internals import find_seam, require_pydantic_ai
from kvflow_pydantic_ai._observer import Observer


def find(observer: Observer, failsafe: Failsafe) -> list[Patch]:
    """What lets an observer watch every run; see `kvflow_agents.patches.Patches`."""
    require_pydantic_ai()

    def watched(original: Method) -> Method:
        @asynccontextmanager
        async def iter(agent: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            async with original(agent, *args, **kwargs) as run:
                turn = failsafe(observer.enter, agent, run, kwargs)
                failed = True
                try:
                    yield run
                    failed = False
                finally:
                    if turn is not None:
                        failsafe(observer.leave, turn, run, failed=failed)

        return iter

    return [(find_seam(), watched)]
