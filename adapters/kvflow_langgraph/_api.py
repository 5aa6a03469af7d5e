"""Turning the adapter on: for the process, or for one app."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from kvflow_langgraph._adapter import adapter

AppT = TypeVar("AppT")


def instrument(*, base_urls: Iterable[str] | None = None) -> None:
    """Hint every LangGraph run of this process; once more changes nothing.

    `base_urls` are the servers that take hints; without them `KVFLOW_BASE_URLS` says so.
    ConfigurationError if neither does, or a package is missing.
    """
    adapter.subscriptions.subscribe_process(base_urls)


def uninstrument() -> None:
    """Undo `instrument`: LangGraph and the OpenAI SDK have their own methods back."""
    adapter.subscriptions.unsubscribe_process()


def wrap(app: AppT, *, base_urls: Iterable[str] | None = None) -> AppT:
    """A copy of a compiled graph, of the same type, whose runs are hinted.

    Runs of the graph itself are not: use what is returned.
    """
    if not adapter.can_wrap(app):
        return app
    from kvflow_langgraph._handler import KVFlowCallbackHandler

    handler = KVFlowCallbackHandler(base_urls)
    wrapped: AppT = app.with_config(callbacks=[handler])  # type: ignore[attr-defined]
    # LangGraph 1.0 drops an app's own callbacks where the caller passes some.
    adapter.subscriptions.mark(wrapped, handler.kvflow_carrier)
    return wrapped
