"""A server, and a process in which everything is off again after a test."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator

import pytest
from openai import AsyncOpenAI

import kvflow_agents
from kvflow_agents import instrumentation
from tests.fake_openai import FakeOpenAI


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    entries = [entry for entry in instrumentation._entries() if entry.name in HERE]
    with FakeOpenAI() as server:
        yield server
        kvflow_agents.uninstrument()
        gc.collect()
        for entry in entries:
            adapter = entry.load()
            adapter.subscriptions.close_collected()
            assert adapter.failsafe.errors == 0
            assert adapter.subscriptions.courier.flush(10)
            assert not adapter.patches._originals


@pytest.fixture
async def client(server: FakeOpenAI) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=server.base_url, api_key="key", max_retries=0) as client:
        yield client


HERE = ("agent-framework", "autogen", "langgraph", "openai-agents", "pydantic-ai")
"""The frameworks of this environment."""
