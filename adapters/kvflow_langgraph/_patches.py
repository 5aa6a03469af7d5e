"""The patches: LangGraph's own methods, followed by a word to the observer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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

    # Arguments find their names inside the failsafe: a version may call them in another way.
    def planned(loop: Any, goes_on: Any) -> None:
        if goes_on:
            observer.planned(loop)

    def pushed(loop: Any, task: Any, *_: Any, **__: Any) -> None:
        observer.pushed(loop, task)

    def committed(runner: Any, result: Any, task: Any, exception: BaseException | None) -> None:
        if exception is None:
            observer.finished(task)

    then, athen = partial(_then, failsafe), partial(_athen, failsafe)
    return [
        (seams.tick, then(planned)),
        (seams.accept_push, then(pushed)),
        (seams.commit, then(committed)),
        (seams.leave, _finally(failsafe, observer.left)),
        (seams.aleave, _afinally(failsafe, observer.left)),
        (seams.schedule_error_handler, then(pushed)),
        (seams.aschedule_error_handler, athen(pushed)),
    ]


def _then(failsafe: Failsafe, tell: Tell) -> Callable[[Method], Method]:
    """Tell what a method was called on, what it returned, and its arguments."""

    def wrap(original: Method) -> Method:
        def method(owner: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(owner, *args, **kwargs)
            failsafe(tell, owner, result, *args, **kwargs)
            return result

        return method

    return wrap


def _athen(failsafe: Failsafe, tell: Tell) -> Callable[[Method], Method]:
    def wrap(original: Method) -> Method:
        async def method(owner: Any, *args: Any, **kwargs: Any) -> Any:
            result = await original(owner, *args, **kwargs)
            failsafe(tell, owner, result, *args, **kwargs)
            return result

        return method

    return wrap


def _finally(failsafe: Failsafe, tell: Tell) -> Callable[[Method], Method]:
    """Tell what a method was called on when it is over, also by an exception."""

    def wrap(original: Method) -> Method:
        def method(owner: Any, *args: Any) -> Any:
            try:
                return original(owner, *args)
            finally:
                failsafe(tell, owner)

        return method

    return wrap


def _afinally(failsafe: Failsafe, tell: Tell) -> Callable[[Method], Method]:
    def wrap(original: Method) -> Method:
        async def method(owner: Any, *args: Any) -> Any:
            try:
                return await original(owner, *args)
            finally:
                failsafe(tell, owner)

        return method

    return wrap
