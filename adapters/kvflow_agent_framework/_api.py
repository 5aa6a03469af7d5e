"""Turning the adapter on: for the process, or for one workflow or agent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from kvflow_agent_framework._adapter import adapter
from kvflow_agent_framework._internals import is_agent, is_workflow, require_agent_framework
from kvflow_agents import ConfigurationError

SubjectT = TypeVar("SubjectT")


def instrument(*, base_urls: Iterable[str] | None = None) -> None:
    """Hint every workflow and agent of Agent Framework here; once more changes nothing.

    `base_urls` are the servers that take hints; without them `KVFLOW_BASE_URLS` or
    `OPENAI_BASE_URL` says so. ConfigurationError if neither does, or a package is missing.
    """
    adapter.subscriptions.subscribe_process(base_urls)


def uninstrument() -> None:
    """Undo `instrument`: Agent Framework and the OpenAI SDK have their own methods back."""
    adapter.subscriptions.unsubscribe_process()


def wrap(workflow: SubjectT, *, base_urls: Iterable[str] | None = None) -> SubjectT:
    """The same workflow, or single agent, whose runs are hinted from now on."""
    require_agent_framework()
    if not (is_workflow(workflow) or is_agent(workflow)):
        raise ConfigurationError(
            f"wrap() takes a workflow or an agent of agent-framework, not {type(workflow).__name__}"
        )
    adapter.subscriptions.subscribe_for(workflow, base_urls)
    return workflow
