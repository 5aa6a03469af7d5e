"""The patches: CrewAI's own methods, with a word to the observer before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kvflow_agents.failsafe import Failsafe
from kvflow_agents.patches import Method, Patch
from kvflow_crewai._internals import find_seams, require_crewai
from kvflow_crewai._observer import Observer, Place

Enter = Callable[..., Place | None]
Leave = Callable[[Place], None]


def find(observer: Observer, failsafe: Failsafe) -> list[Patch]:
    """What lets an observer watch every run; see `kvflow_agents.patches.Patches`."""
    require_crewai()
    seams = find_seams()

    def run(crew: Any, tasks: Any, *_: Any, **__: Any) -> Place | None:
        return observer.enter(crew, tasks)

    def do_task(task: Any, agent: Any = None, *_: Any, **__: Any) -> Place | None:
        return observer.begin_task(task, agent)

    def ask(agent: Any, *_: Any, **__: Any) -> Place | None:
        return observer.ask(agent)

    within = _Within(observer, failsafe)
    return [
        (seams.run, within.now(run, observer.leave)),
        (seams.arun, within.later(run, observer.leave)),
        (seams.copy, _copied(observer, failsafe)),
        (seams.do_task, within.now(do_task, observer.finish)),
        (seams.ado_task, within.later(do_task, observer.finish)),
        (seams.ask_agent, within.now(ask, observer.finish)),
        (seams.aask_agent, within.later(ask, observer.finish)),
    ]


class _Within:
    """Makes the new methods: each calls the original exactly once, in a place."""

    def __init__(self, observer: Observer, failsafe: Failsafe) -> None:
        self._observer = observer
        self._failsafe = failsafe

    def now(self, enter: Enter, leave: Leave) -> Callable[[Method], Method]:
        def wrap(original: Method) -> Method:
            def method(*args: Any, **kwargs: Any) -> Any:
                place = self._failsafe(enter, *args, **kwargs)
                if place is None:
                    return original(*args, **kwargs)
                with self._in(place, leave):
                    return original(*args, **kwargs)

            return method

        return wrap

    def later(self, enter: Enter, leave: Leave) -> Callable[[Method], Method]:
        def wrap(original: Method) -> Method:
            async def method(*args: Any, **kwargs: Any) -> Any:
                place = self._failsafe(enter, *args, **kwargs)
                if place is None:
                    return await original(*args, **kwargs)
                with self._in(place, leave):
                    return await original(*args, **kwargs)

            return method

        return wrap

    @contextmanager
    def _in(self, place: Place, leave: Leave) -> Iterator[None]:
        token = self._observer.take(place)
        try:
            yield
        finally:
            self._observer.give_back(token)
            self._failsafe(leave, place)


def _copied(observer: Observer, failsafe: Failsafe) -> Callable[[Method], Method]:
    def wrap(original: Method) -> Method:
        def copy(crew: Any, *args: Any, **kwargs: Any) -> Any:
            made = original(crew, *args, **kwargs)
            failsafe(observer.copied, crew, made)
            return made

        return copy

    return wrap
