"""Turning the adapter on: for the process, or for one workflow or agent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from kvflow_agent_framework._adapter import adapter

SubjectT = TypeVar("SubjectT")


def instrument(*, base_urls: Iterable[str] | None = None) -> None:
    """Hint every workflow and agent of Agent Framework here; once more changes nothing.

    `base_urls` are the servers that take hints; without them `KVFLOW_BASE_URLS` says so.
    ConfigurationError if neither does, or a package is missing.
    """
    adapter.subscriptions.subscribe_process(base_urls)


def uninstrument() -> None:
    """Undo `instrument`: Agent Framework and the OpenAI SDK have their own methods back."""
    adapter.subscriptions.unsubscribe_process()


def wrap(workflow: SubjectT, *, base_urls: Iterable[str] | None = None) -> SubjectT:
    """The same workflow, or single agent, whose runs are hinted from now on."""
    return adapter.wrap(workflow, base_urls)
