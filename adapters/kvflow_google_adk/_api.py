"""Turning the adapter on: for the process, or for one runner."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from kvflow_google_adk._adapter import adapter

RunnerT = TypeVar("RunnerT")


def instrument(*, base_urls: Iterable[str] | None = None) -> None:
    """Hint every run of Google ADK in this process; once more changes nothing.

    `base_urls` are the servers that take hints; without them `KVFLOW_BASE_URLS` says so.
    ConfigurationError if neither does, or a package is missing.
    """
    adapter.subscriptions.subscribe_process(base_urls)


def uninstrument() -> None:
    """Undo `instrument`: Google ADK and the OpenAI SDK have their own methods back."""
    adapter.subscriptions.unsubscribe_process()


def wrap(runner: RunnerT, *, base_urls: Iterable[str] | None = None) -> RunnerT:
    """The same runner, whose runs are hinted from now on."""
    return adapter.wrap(runner, base_urls)
