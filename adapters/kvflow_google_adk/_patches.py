"""The patches: Google ADK's own methods, with a word to the observer before and after."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from kvflow_agents.failsafe import Failsafe
from kvflow_agents.patches import Method, Patch
from kvflow_google_adk._internals import find_seams, node_named, require_google_adk
from kvflow_google_adk._observer import Observer, Place
from kvflow_google_adk._structure import first_agents


def find(observer: Observer, failsafe: Failsafe) -> list[Patch]:
    """What lets an observer watch every run; see `kvflow_agents.patches.Patches`."""
    require_google_adk()
    seams = find_seams()
    wrappers = _Wrappers(observer, failsafe)
    return [
        (seams.run, wrappers.run),
        (seams.close, wrappers.close),
        (seams.run_agent, wrappers.run_agent),
        (seams.start_node, wrappers.start_node),
    ]


class _Wrappers:
    """Makes the new methods: each calls the original exactly once."""

    def __init__(self, observer: Observer, failsafe: Failsafe) -> None:
        self._observer = observer
        self._failsafe = failsafe

    def run(self, original: Method) -> Method:
        async def run_async(runner: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            session = kwargs.get("session_id")
            place = self._failsafe(self._observer.enter, runner, str(session))
            items = self._drive(original(runner, *args, **kwargs), place, self._observer.leave)
            async with aclosing(items):
                async for item in items:
                    yield item

        return run_async

    def run_agent(self, original: Method) -> Method:
        async def run_async(agent: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            place = self._failsafe(self._observer.begin, agent)
            items = self._drive(original(agent, *args, **kwargs), place, self._observer.finish)
            async with aclosing(items):
                async for item in items:
                    yield item

        return run_async

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

    async def _drive(
        self,
        stream: AsyncGenerator[Any, None],
        place: Place | None,
        over: Callable[[Place], None],
    ) -> AsyncGenerator[Any, None]:
        """Pass a stream on; its own code is in the place, its consumer's is not."""
        try:
            while True:
                with self._in(place):
                    try:
                        item = await anext(stream)
                    except StopAsyncIteration:
                        return
                yield item
        finally:
            try:
                with self._in(place):
                    await stream.aclose()
            finally:
                if place is not None:
                    self._failsafe(over, place)

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
