"""Turning the adapter on: for the process, or for one app."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from kvflow_agents import ConfigurationError
from kvflow_langgraph._adapter import adapter
from kvflow_langgraph._internals import require_langgraph

AppT = TypeVar("AppT")


def instrument(*, base_urls: Iterable[str] | None = None) -> None:
    """Hint every LangGraph run of this process; once more changes nothing.

    `base_urls` are the servers that take hints; without them `KVFLOW_BASE_URLS` or
    `OPENAI_BASE_URL` says so. ConfigurationError if neither does, or a package is missing.
    """
    adapter.subscriptions.subscribe_process(base_urls)


def uninstrument() -> None:
    """Undo `instrument`: LangGraph and the OpenAI SDK have their own methods back."""
    adapter.subscriptions.unsubscribe_process()


def wrap(app: AppT, *, base_urls: Iterable[str] | None = None) -> AppT:
    """A copy of a compiled graph, of the same type, whose runs are hinted."""
    require_langgraph()
    from langgraph.pregel import Pregel

    from kvflow_langgraph._handler import KVFlowCallbackHandler

    if not isinstance(app, Pregel):
        raise ConfigurationError(
            f"wrap() takes a compiled graph, not {type(app).__name__}: compile it first"
        )
    handler = KVFlowCallbackHandler(base_urls)
    wrapped = app.with_config(callbacks=[handler])
    # LangGraph 1.0 drops an app's own callbacks where the caller passes some.
    adapter.subscriptions.mark(wrapped, handler.kvflow_carrier)
    return wrapped
