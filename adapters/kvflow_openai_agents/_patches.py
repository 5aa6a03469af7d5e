"""The patches: the Agents SDK's own functions, with a word to the observer before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvflow_agents.failsafe import Failsafe
from kvflow_agents.patches import Method, Patch
from kvflow_openai_agents._internals import find_seams, require_openai_agents
from kvflow_openai_agents._observer import Observer


def find(observer: Observer, failsafe: Failsafe) -> list[Patch]:
    """What lets an observer watch every run; see `kvflow_agents.patches.Patches`."""
    require_openai_agents()
    seams = find_seams()
    wrappers = _Wrappers(observer, failsafe)
    return [
        (seams.run, wrappers.run),
        (seams.stream, wrappers.stream),
        (seams.get_model, wrappers.get_model),
        *((seam, wrappers.finish) for seam in seams.finish),
    ]


class _Wrappers:
    """Makes the new functions: each calls the original exactly once."""

    def __init__(self, observer: Observer, failsafe: Failsafe) -> None:
        self._observer = observer
        self._failsafe = failsafe

    def run(self, original: Method) -> Method:
        async def run(runner: Any, starting_agent: Any, input: Any, **kwargs: Any) -> Any:
            scope = self._failsafe(self._observer.enter, starting_agent, input, kwargs)
            result = None
            try:
                result = await original(runner, starting_agent, input, **kwargs)
                return result
            finally:
                if scope is not None:
                    self._failsafe(self._observer.leave, scope, result)

        return run

    def stream(self, original: Method) -> Method:
        async def start_streaming(*args: Any, **kwargs: Any) -> Any:
            scope = self._failsafe(self._enter_stream, kwargs)
            try:
                return await original(*args, **kwargs)
            finally:
                if scope is not None:
                    # Whoever began the stream holds its result, however it ends.
                    self._failsafe(self._observer.leave, scope, kwargs.get("streamed_result"))

        return start_streaming

    def get_model(self, original: Method) -> Method:
        def get_model(agent: Any, run_config: Any) -> Any:
            self._failsafe(self._observer.turn, agent)
            return original(agent, run_config)

        return get_model

    def finish(self, original: Method) -> Method:
        def finish(trace: Any, reset_current: bool = False) -> Any:
            self._failsafe(self._observer.finished, trace)
            return original(trace, reset_current)

        return finish

    def _enter_stream(self, options: Mapping[str, Any]) -> Any:
        return self._observer.enter(
            options["starting_agent"],
            options["run_state"] or options.get("starting_input"),
            options,
        )
