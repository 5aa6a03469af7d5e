"""Turning the adapter on: for the process, or for the runs of one agent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from kvflow_openai_agents._adapter import adapter

AgentT = TypeVar("AgentT")


def instrument(*, base_urls: Iterable[str] | None = None) -> None:
    """Hint every run of the OpenAI Agents SDK in this process; once more changes nothing.

    `base_urls` are the servers that take hints; without them `KVFLOW_BASE_URLS` says so.
    ConfigurationError if neither does, or a package is missing.
    """
    adapter.subscriptions.subscribe_process(base_urls)


def uninstrument() -> None:
    """Undo `instrument`: the Agents SDK and the OpenAI SDK have their own methods back."""
    adapter.subscriptions.unsubscribe_process()


def wrap(agent: AgentT, *, base_urls: Iterable[str] | None = None) -> AgentT:
    """The same agent; runs that start with it are hinted from now on, whoever they go on to."""
    return adapter.wrap(agent, base_urls)
