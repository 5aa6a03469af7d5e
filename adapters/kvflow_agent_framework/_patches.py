"""The patches: Agent Framework's own methods, with a word to the observer before and after."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from kvflow_agent_framework._internals import find_seams, require_agent_framework
from kvflow_agent_framework._observer import Observer, Place
from kvflow_agents.failsafe import Failsafe
from kvflow_agents.patches import Method, Patch

_NOWHERE = (None, None)


def find(observer: Observer, failsafe: Failsafe) -> list[Patch]:
    """What lets an observer watch every run; see `kvflow_agents.patches.Patches`."""
    require_agent_framework()
    seams = find_seams()
    wrappers = _Wrappers(observer, failsafe)
    return [
        (seams.run_workflow, wrappers.run_workflow),
        (seams.drain, wrappers.drain),
        (seams.execute, wrappers.execute),
        (seams.run_agent, wrappers.run_agent),
    ]


class _Wrappers:
    """Makes the new methods: each calls the original exactly once."""

    def __init__(self, observer: Observer, failsafe: Failsafe) -> None:
        self._observer = observer
        self._failsafe = failsafe

    def run_workflow(self, original: Method) -> Method:
        async def run(workflow: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            scope = self._failsafe(self._observer.enter_workflow, workflow)
            try:
                async with aclosing(original(workflow, *args, **kwargs)) as events:
                    async for event in events:
                        yield event
            finally:
                if scope is not None:
                    self._failsafe(self._observer.leave_workflow, workflow, scope)

        return run

    def drain(self, original: Method) -> Method:
        async def drain_messages(context: Any) -> Any:
            batches = await original(context)
            self._failsafe(self._observer.drained, context, batches)
            return batches

        return drain_messages

    def execute(self, original: Method) -> Method:
        async def execute(executor: Any, *args: Any, **kwargs: Any) -> Any:
            place, message = self._failsafe(self._begin, executor, *args, **kwargs) or _NOWHERE
            try:
                with self._observer.at(place):
                    return await original(executor, *args, **kwargs)
            finally:
                if place is not None:
                    self._failsafe(self._observer.finish, place, message)

        return execute

    def run_agent(self, original: Method) -> Method:
        def run(agent: Any, messages: Any = None, **kwargs: Any) -> Any:
            if not kwargs.get("stream"):
                return self._answer(original, agent, messages, kwargs)
            stream = original(agent, messages, **kwargs)
            place = self._failsafe(self._observer.enter_agent, agent, messages, kwargs)
            if place is not None:
                self._failsafe(self._watch, stream, place)
            return stream

        return run

    def _begin(
        self,
        executor: Any,
        message: Any,
        source_executor_ids: Any = None,
        state: Any = None,
        runner_context: Any = None,
        *_: Any,
        **__: Any,
    ) -> tuple[Place | None, Any]:
        return self._observer.begin(executor, message, runner_context), message

    async def _answer(
        self, original: Method, agent: Any, messages: Any, options: dict[str, Any]
    ) -> Any:
        place = self._failsafe(self._observer.enter_agent, agent, messages, options)
        result = None
        try:
            with self._observer.at(place):
                result = await original(agent, messages, **options)
            return result
        finally:
            if place is not None:
                self._failsafe(self._observer.leave, place.scope, result)

    def _watch(self, stream: Any, place: Place) -> None:
        """A stream's own code is in the place, its consumer's is not."""
        stream.with_pull_context_manager(lambda: self._observer.at(place))
        # Its consumer holds the stream, from whose end it can go on.
        stream.with_cleanup_hook(
            lambda: self._failsafe(self._observer.leave, place.scope, stream) and None
        )
