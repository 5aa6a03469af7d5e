"""The patches: AutoGen's own methods, with a word to the observer before and after."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from kvflow_agents.failsafe import Failsafe
from kvflow_agents.patches import Method, Patch
from kvflow_autogen._internals import (
    answered_in,
    asked_in,
    find_seams,
    is_answer,
    is_last,
    is_request,
    require_autogen,
)
from kvflow_autogen._observer import Observer, Place


def find(observer: Observer, failsafe: Failsafe) -> list[Patch]:
    """What lets an observer watch every run; see `kvflow_agents.patches.Patches`."""
    require_autogen()
    seams = find_seams()
    wrappers = _Wrappers(observer, failsafe)
    return [
        (seams.run_team, wrappers.run_team),
        (seams.reset_team, wrappers.reset_team),
        (seams.run_agent, wrappers.run_agent),
        (seams.stream_agent, wrappers.stream_agent),
        *((seam, wrappers.stream_agent) for seam in seams.answers),
        (seams.select, wrappers.select),
        (seams.publish, wrappers.publish),
    ]


class _Wrappers:
    """Makes the new methods: each calls the original exactly once."""

    def __init__(self, observer: Observer, failsafe: Failsafe) -> None:
        self._observer = observer
        self._failsafe = failsafe

    def run_team(self, original: Method) -> Method:
        async def run_stream(team: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            scope = self._failsafe(self._observer.enter_team, team)
            try:
                async with aclosing(original(team, *args, **kwargs)) as items:
                    async for item in items:
                        if scope is not None and is_last(item):
                            self._failsafe(self._observer.leave, scope)
                        yield item
            finally:
                if scope is not None:
                    self._failsafe(self._observer.leave, scope)

        return run_stream

    def stream_agent(self, original: Method) -> Method:
        async def stream(agent: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            place = self._failsafe(self._observer.enter_agent, agent)
            try:
                items = self._drive(original(agent, *args, **kwargs), place)
                async with aclosing(items):
                    async for item in items:
                        # Most leave a stream at its last item, and do not close it.
                        if place is not None and is_last(item):
                            self._failsafe(self._observer.leave, place.scope)
                        yield item
            finally:
                if place is not None:
                    self._failsafe(self._observer.leave, place.scope)

        return stream

    def run_agent(self, original: Method) -> Method:
        async def run(agent: Any, *args: Any, **kwargs: Any) -> Any:
            place = self._failsafe(self._observer.enter_agent, agent)
            try:
                with self._in(place):
                    return await original(agent, *args, **kwargs)
            finally:
                if place is not None:
                    self._failsafe(self._observer.leave, place.scope)

        return run

    def reset_team(self, original: Method) -> Method:
        async def reset(team: Any) -> Any:
            try:
                return await original(team)
            finally:
                self._failsafe(self._observer.reset, team)

        return reset

    def select(self, original: Method) -> Method:
        async def log_speaker_selection(manager: Any, speaker_names: Any) -> Any:
            self._failsafe(self._observer.selected, manager, speaker_names)
            return await original(manager, speaker_names)

        return log_speaker_selection

    def publish(self, original: Method) -> Method:
        async def publish_message(
            actor: Any, message: Any, topic_id: Any, *args: Any, **kwargs: Any
        ) -> Any:
            # Of all that actors publish, these two tell of turns.
            if is_request(message):
                self._failsafe(self._asked, actor, topic_id)
            elif is_answer(message):
                self._failsafe(self._answered, actor, message)
            return await original(actor, message, topic_id, *args, **kwargs)

        return publish_message

    def _asked(self, manager: Any, topic: Any) -> None:
        self._observer.asked(manager, asked_in(topic))

    def _answered(self, actor: Any, message: Any) -> None:
        self._observer.answered(actor, answered_in(message))

    async def _drive(
        self, stream: AsyncGenerator[Any, None], place: Place | None
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
            with self._in(place):
                await stream.aclose()

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
