"""The patches: LlamaIndex's own methods, with a word to the observer before and after."""

from __future__ import annotations

from typing import Any

from kvflow_agents.failsafe import Failsafe
from kvflow_agents.patches import Method, Patch
from kvflow_llama_index._internals import find_seams, on_end, require_llama_index
from kvflow_llama_index._observer import Observer, Scope


def find(observer: Observer, failsafe: Failsafe) -> list[Patch]:
    """What lets an observer watch every run; see `kvflow_agents.patches.Patches`."""
    require_llama_index()
    seams = find_seams()
    wrappers = _Wrappers(observer, failsafe)
    return [
        (seams.run, wrappers.run),
        (seams.begin_step, wrappers.begin_step),
        (seams.tick, wrappers.tick),
    ]


class _Wrappers:
    """Makes the new methods: each calls the original exactly once."""

    def __init__(self, observer: Observer, failsafe: Failsafe) -> None:
        self._observer = observer
        self._failsafe = failsafe

    def run(self, original: Method) -> Method:
        def run(workflow: Any, ctx: Any = None, *args: Any, **kwargs: Any) -> Any:
            scope = self._failsafe(self._observer.enter, workflow, ctx)
            if scope is None:
                return original(workflow, ctx, *args, **kwargs)
            handler = None
            try:
                with self._observer.inside(scope):
                    handler = original(workflow, ctx, *args, **kwargs)
                return handler
            finally:
                self._failsafe(self._follow, handler, scope)

        return run

    def begin_step(self, original: Method) -> Method:
        def run_worker(runner: Any, command: Any) -> Any:
            self._failsafe(self._observer.begins, runner, command)
            return original(runner, command)

        return run_worker

    def tick(self, original: Method) -> Method:
        async def process_tick(runner: Any, tick: Any) -> Any:
            self._failsafe(self._observer.ticks, runner, tick)
            return await original(runner, tick)

        return process_tick

    def _follow(self, handler: Any | None, scope: Scope) -> None:
        if handler is None:  # it could not be begun
            self._observer.leave(scope)
        else:
            on_end(handler, lambda _: self._failsafe(self._observer.leave, scope))
