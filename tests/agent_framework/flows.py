"""Workflows of Microsoft Agent Framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent_framework import Agent, Workflow, WorkflowBuilder
from agent_framework_openai import OpenAIChatCompletionClient
from openai import AsyncOpenAI


async def run(subject: Any, text: str, *, streaming: bool) -> None:
    """Run a workflow or an agent."""
    if streaming:
        async for _ in subject.run(text, stream=True):
            pass
    else:
        await subject.run(text)


def agent(client: AsyncOpenAI, name: str, **options: Any) -> Agent[Any]:
    """An agent; one that says nothing else has the same prompt as the others."""
    chat: Any = OpenAIChatCompletionClient(model="fake", async_client=client)
    return Agent(chat, options.pop("instructions", "Go on."), name=name, **options)


def chain(client: AsyncOpenAI, names: Sequence[str]) -> Workflow:
    """Agents one after another."""
    agents = [agent(client, name) for name in names]
    builder = WorkflowBuilder(start_executor=agents[0])
    for before, after in zip(agents, agents[1:], strict=False):
        builder = builder.add_edge(before, after)
    return builder.build()
