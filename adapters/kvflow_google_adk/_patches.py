"""The patches: Google ADK's own methods, with a word to the observer before and after."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kvflow_agents.failsafe import Failsafe
from kvflow_agents.patches import Method, Patch
from kvflow_google_adk._internals import (
    find_seams,
    node_named,
    require_google_adk,
    session_name,
)
from kvflow_google_adk._observer import Observer, Place
from kvflow_google_adk._structure import first_agents

Enter = Callable[..., Place | None]
Leave = Callable[[Place], None]


def find(observer: Observer, failsafe: Failsafe) -> list[Patch]:
    """What lets an observer watch every run; see `kvflow_agents.patches.Patches`."""
    require_google_adk()
    seams = find_seams()
    wrappers = _Wrappers(observer, failsafe)

    def run(
        runner: Any, *_: Any, user_id: object = None, session_id: object = None, **__: Any
    ) -> Place | None:
        return observer.enter(runner, session_name(runner, str(user_id), str(session_id)))

    def run_agent(agent: Any, *_: Any, **__: Any) -> Place | None:
        return observer.begin(agent)

    return [
        (seams.run, wrappers.stream(run, observer.leave)),
        (seams.close, wrappers.close),
        (seams.run_agent, wrappers.stream(run_agent, observer.finish)),
        (seams.start_node, wrappers.start_node),
    ]


class _Wrappers:
    """Makes the new methods: each calls the original exactly once."""

    def __init__(self, observer: Observer, failsafe: Failsafe) -> None:
        self._observer = observer
        self._failsafe = failsafe

    def close(self, original: Method) -> Method:
        async def close(runner: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return await original(runner, *args, **kwargs)
            finally:
                self._failsafe(self._observer.close, runner)

        return close

    def start_node(self, original: Method) -> Method:
        def start(workflow: Any, *args: Any, **kwargs: Any) -> Any:
            self._failsafe(self._announce, workflow, args, kwargs)
            return original(workflow, *args, **kwargs)

        return start

    def _announce(self, workflow: Any, args: Any, kwargs: Any) -> None:
        names = [each for each in (*args, *kwargs.values()) if isinstance(each, str)]
        node = node_named(workflow, names[0]) if names else None
        if node is not None:
            self._observer.announce(first_agents(node))

    def stream(self, enter: Enter, leave: Leave) -> Callable[[Method], Method]:
        """Pass a stream on; its own code is in the place, its consumer's is not."""

        def wrap(original: Method) -> Method:
            async def stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
                items = original(*args, **kwargs)
                place = self._failsafe(enter, *args, **kwargs)
                try:
                    while True:
                        with self._in(place):
                            try:
                                item = await anext(items)
                            except StopAsyncIteration:
                                return
                        yield item
                finally:
                    try:
                        with self._in(place):
                            await items.aclose()
                    finally:
                        if place is not None:
                            self._failsafe(leave, place)

            return stream

        return wrap

    @contextmanager
    def _in(self, place: Place | None) -> Iterator[None]:
        if place is None:
            yield
            return
        token = self._observer.take(place)
        try:
            yield
        finally:
            self._observer.give_back(token)
