"""Fixtures: a server, a model that talks to it, and an adapter that is off again after a test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from kvflow_agents import loops
from kvflow_pydantic_ai import _adapter
from tests.adapter_fixtures import (  # noqa: F401
    AnyAdapter,
    instrumented,
    nothing_failed,
    nothing_learned,
    server,
)
from tests.fake_openai import FakeOpenAI


def model_of(client: AsyncOpenAI) -> OpenAIChatModel:
    return OpenAIChatModel("fake", provider=OpenAIProvider(openai_client=client))


@pytest.fixture
def adapter() -> AnyAdapter:
    return _adapter.adapter


@pytest.fixture
async def client(server: FakeOpenAI) -> AsyncIterator[AsyncOpenAI]:  # noqa: F811
    async with AsyncOpenAI(base_url=server.base_url, api_key="key", max_retries=0) as client:
        yield client


@pytest.fixture
def model(client: AsyncOpenAI) -> OpenAIChatModel:
    return model_of(client)


@pytest.fixture(autouse=True)
def nothing_learned_of_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops.adapter, "_apps", type(loops.adapter._apps)())
