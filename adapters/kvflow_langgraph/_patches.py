"""The patches: LangGraph's own methods, followed by a word to the observer."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from kvflow_agents.failsafe import Failsafe, logger
from kvflow_langgraph._internals import Seam, find_seams, require_langgraph
from kvflow_langgraph._observer import Observer

Method = Callable[..., Any]
"""A method of LangGraph's. It runs first and its outcome is passed on, whatever we do."""


class Patches:
    """Lets an observer watch every run of the process; `remove` restores the same objects."""

    def __init__(self, observer: Observer) -> None:
        self.failsafe = Failsafe("a LangGraph run")
        self._observer = observer
        self._originals: list[tuple[Seam, Method, Method]] = []
        self._has_warned = False

    def apply(self) -> bool:
        """Whether the patches are in place; an unknown LangGraph is left alone, with a warning.

        ConfigurationError if there is no LangGraph.
        """
        if self._originals:
            return True
        require_langgraph()
        try:
            seams = find_seams()
            problem = seams.problem()
        except ImportError as error:
            problem = str(error)
        if problem is not None:
            self._warn(problem)
            return False
        self._patch(seams.tick, self._tick)
        self._patch(seams.accept_push, self._accept)
        self._patch(seams.commit, self._commit)
        self._patch(seams.leave, self._leave)
        self._patch(seams.aleave, self._aleave)
        self._patch(seams.schedule_error_handler, self._accept)
        self._patch(seams.aschedule_error_handler, self._aaccept)
        return True

    def remove(self) -> None:
        """Restore what was there; a patch that somebody has wrapped since goes on, to no effect."""
        for seam, original, ours in self._originals:
            if seam.owner.__dict__[seam.name] is ours:
                setattr(seam.owner, seam.name, original)
        self._originals = []

    def _patch(self, seam: Seam, wrap: Callable[[Method], Method]) -> None:
        if seam.is_missing():
            return
        original = seam.owner.__dict__[seam.name]
        ours = wraps(original)(wrap(original))
        setattr(seam.owner, seam.name, ours)
        self._originals.append((seam, original, ours))

    def _warn(self, problem: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("kvflow does not know this LangGraph and is off: %s", problem)

    def _tick(self, original: Method) -> Method:
        def tick(loop: Any) -> Any:
            goes_on = original(loop)
            if goes_on:
                self.failsafe(self._observer.planned, loop)
            return goes_on

        return tick

    def _accept(self, original: Method) -> Method:
        def accept(loop: Any, *args: Any, **kwargs: Any) -> Any:
            task = original(loop, *args, **kwargs)
            self.failsafe(self._observer.pushed, loop, task)
            return task

        return accept

    def _aaccept(self, original: Method) -> Method:
        async def accept(loop: Any, *args: Any, **kwargs: Any) -> Any:
            task = await original(loop, *args, **kwargs)
            self.failsafe(self._observer.pushed, loop, task)
            return task

        return accept

    def _commit(self, original: Method) -> Method:
        def commit(runner: Any, task: Any, exception: BaseException | None) -> Any:
            result = original(runner, task, exception)
            if exception is None:
                self.failsafe(self._observer.finished, task)
            return result

        return commit

    def _leave(self, original: Method) -> Method:
        def leave(loop: Any, *exception: Any) -> Any:
            try:
                return original(loop, *exception)
            finally:
                self.failsafe(self._observer.left, loop)

        return leave

    def _aleave(self, original: Method) -> Method:
        async def leave(loop: Any, *exception: Any) -> Any:
            try:
                return await original(loop, *exception)
            finally:
                self.failsafe(self._observer.left, loop)

        return leave
