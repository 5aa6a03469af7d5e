"""Turning the adapter on: for the process, or for the runs of one agent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from kvflow_pydantic_ai._adapter import adapter
from kvflow_pydantic_ai._internals import wrapped_agent

AgentT = TypeVar("AgentT")


def instrument(*, base_urls: Iterable[str] | None = None) -> None:
    """Hint every run of Pydantic AI in this process; once more changes nothing.

    `base_urls` are the servers that take hints; without them `KVFLOW_BASE_URLS` says so.
    ConfigurationError if neither does, or a package is missing.
    """
    adapter.subscriptions.subscribe_process(base_urls)


def uninstrument() -> None:
    """Undo `instrument`: Pydantic AI and the OpenAI SDK have their own methods back."""
    adapter.subscriptions.unsubscribe_process()


def wrap(agent: AgentT, *, base_urls: Iterable[str] | None = None) -> AgentT:
    """The same agent, whose runs are hinted from now on, with those of agents its tools ask."""
    if adapter.can_wrap(agent):
        adapter.subscriptions.subscribe_for(wrapped_agent(agent), base_urls)
    return agent
