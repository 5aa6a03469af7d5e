"""Turning the adapter on: for the process, or for one workflow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from kvflow_llama_index._adapter import adapter

WorkflowT = TypeVar("WorkflowT")


def instrument(*, base_urls: Iterable[str] | None = None) -> None:
    """Hint every agent and workflow of this process; once more changes nothing.

    `base_urls` are the servers that take hints; without them `KVFLOW_BASE_URLS` says so.
    ConfigurationError if neither does, or a package is missing.
    """
    adapter.subscriptions.subscribe_process(base_urls)


def uninstrument() -> None:
    """Undo `instrument`: LlamaIndex and the OpenAI SDK have their own methods back."""
    adapter.subscriptions.unsubscribe_process()


def wrap(workflow: WorkflowT, *, base_urls: Iterable[str] | None = None) -> WorkflowT:
    """The same agent, `AgentWorkflow` or workflow, whose runs are hinted from now on."""
    return adapter.wrap(workflow, base_urls)
