"""Turning the adapter on: for the process, or for one team."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from kvflow_autogen._adapter import adapter

TeamT = TypeVar("TeamT")


def instrument(*, base_urls: Iterable[str] | None = None) -> None:
    """Hint every AgentChat team and agent of this process; once more changes nothing.

    `base_urls` are the servers that take hints; without them `KVFLOW_BASE_URLS` says so.
    ConfigurationError if neither does, or a package is missing.
    """
    adapter.subscriptions.subscribe_process(base_urls)


def uninstrument() -> None:
    """Undo `instrument`: AutoGen and the OpenAI SDK have their own methods back."""
    adapter.subscriptions.unsubscribe_process()


def wrap(team: TeamT, *, base_urls: Iterable[str] | None = None) -> TeamT:
    """The same team, or single agent, whose runs are hinted from now on.

    Nothing is added to the object: what `dump_component` writes is not changed, and a team that
    `load_component` makes of it has to be wrapped for itself.
    """
    return adapter.wrap(team, base_urls)
