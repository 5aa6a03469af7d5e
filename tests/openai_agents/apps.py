"""Agents of the OpenAI Agents SDK, as they are drawn in its documentation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner
from openai import AsyncOpenAI

WAYS = ("run", "run_sync", "run_streamed")


async def run(starting_agent: Agent, input: str, way: str) -> None:
    """Run an agent in one of the ways that there are."""
    if way == "run":
        await Runner.run(starting_agent, input)
    elif way == "run_sync":
        await asyncio.to_thread(_run_sync, starting_agent, input)
    else:
        async for _ in Runner.run_streamed(starting_agent, input).stream_events():
            pass


def _run_sync(starting_agent: Agent, input: str) -> None:
    with asyncio.Runner() as loop:  # the SDK takes the thread's own
        asyncio.set_event_loop(loop.get_loop())
        Runner.run_sync(starting_agent, input)


def agent(client: AsyncOpenAI, name: str, **options: Any) -> Agent:
    """An agent; all have the same prompt, and agents that say nothing else the same model."""
    model = OpenAIChatCompletionsModel(model="fake", openai_client=client)
    return Agent(name, instructions="Go on.", model=model, **options)


def chain(client: AsyncOpenAI, names: Sequence[str]) -> Agent:
    """Agents each of which hands over to the next; the first one."""
    first: Agent | None = None
    for name in reversed(names):
        handoffs: list[Any] = [] if first is None else [first]
        # Else a model that is bound to call some tool would do so for ever.
        settings = ModelSettings(include_usage=True)
        first = agent(client, name, handoffs=handoffs, model_settings=settings)
    assert first is not None
    return first
