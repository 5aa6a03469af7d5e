"""The patches: LangGraph's own methods, followed by a word to the observer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvflow_agents.failsafe import Failsafe
from kvflow_agents.patches import Method, Patch
from kvflow_langgraph._internals import find_seams, require_langgraph
from kvflow_langgraph._observer import Observer

Tell = Callable[..., object]


def find(observer: Observer, failsafe: Failsafe) -> list[Patch]:
    """What lets an observer watch every run; see `kvflow_agents.patches.Patches`."""
    require_langgraph()
    seams = find_seams()

    def planned(loop: Any, goes_on: Any) -> None:
        if goes_on:
            failsafe(observer.planned, loop)

    def pushed(loop: Any, task: Any, *_: Any) -> None:
        failsafe(observer.pushed, loop, task)

    def committed(runner: Any, result: Any, task: Any, exception: BaseException | None) -> None:
        if exception is None:
            failsafe(observer.finished, task)

    def left(loop: Any) -> None:
        failsafe(observer.left, loop)

    return [
        (seams.tick, _then(planned)),
        (seams.accept_push, _then(pushed)),
        (seams.commit, _then(committed)),
        (seams.leave, _finally(left)),
        (seams.aleave, _afinally(left)),
        (seams.schedule_error_handler, _then(pushed)),
        (seams.aschedule_error_handler, _athen(pushed)),
    ]


def _then(tell: Tell) -> Callable[[Method], Method]:
    """Tell what a method was called on, what it returned, and its arguments."""

    def wrap(original: Method) -> Method:
        def method(owner: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(owner, *args, **kwargs)
            tell(owner, result, *args, **kwargs)
            return result

        return method

    return wrap


def _athen(tell: Tell) -> Callable[[Method], Method]:
    def wrap(original: Method) -> Method:
        async def method(owner: Any, *args: Any, **kwargs: Any) -> Any:
            result = await original(owner, *args, **kwargs)
            tell(owner, result, *args, **kwargs)
            return result

        return method

    return wrap


def _finally(tell: Tell) -> Callable[[Method], Method]:
    """Tell what a method was called on when it is over, also by an exception."""

    def wrap(original: Method) -> Method:
        def method(owner: Any, *args: Any) -> Any:
            try:
                return original(owner, *args)
            finally:
                tell(owner)

        return method

    return wrap


def _afinally(tell: Tell) -> Callable[[Method], Method]:
    def wrap(original: Method) -> Method:
        async def method(owner: Any, *args: Any) -> Any:
            try:
                return await original(owner, *args)
            finally:
                tell(owner)

        return method

    return wrap
