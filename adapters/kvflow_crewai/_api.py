"""Turning the adapter on: for the process, or for one crew."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from kvflow_crewai._adapter import adapter

CrewT = TypeVar("CrewT")


def instrument(*, base_urls: Iterable[str] | None = None) -> None:
    """Hint every run of CrewAI in this process; once more changes nothing.

    `base_urls` are the servers that take hints; without them `KVFLOW_BASE_URLS` says so.
    ConfigurationError if neither does, or a package is missing.
    """
    adapter.subscriptions.subscribe_process(base_urls)


def uninstrument() -> None:
    """Undo `instrument`: CrewAI and the OpenAI SDK have their own methods back."""
    adapter.subscriptions.unsubscribe_process()


def wrap(crew: CrewT, *, base_urls: Iterable[str] | None = None) -> CrewT:
    """The same crew, whose runs are hinted from now on."""
    return adapter.wrap(crew, base_urls)
