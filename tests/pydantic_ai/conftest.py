"""Fixtures: a server, a model that talks to it, and an adapter that is off again after a test."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator

import pytest
from openai import AsyncOpenAI
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import kvflow_pydantic_ai
from kvflow_agents import loops
from kvflow_agents.apps import Apps
from kvflow_pydantic_ai._adapter import adapter
from kvflow_pydantic_ai._observer import structure_of
from tests.fake_openai import FakeOpenAI


def model_of(client: AsyncOpenAI) -> OpenAIChatModel:
    return OpenAIChatModel("fake", provider=OpenAIProvider(openai_client=client))


def deliver() -> None:
    """Wait for the forecasts that travel in the background."""
    gc.collect()
    adapter.observer.endings.close_collected()
    assert adapter.subscriptions.courier.flush(10)
    assert loops.adapter.subscriptions.courier.flush(10)


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server
        deliver()


@pytest.fixture
async def client(server: FakeOpenAI) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=server.base_url, api_key="key", max_retries=0) as client:
        yield client


@pytest.fixture
def model(client: AsyncOpenAI) -> OpenAIChatModel:
    return model_of(client)


@pytest.fixture
def instrumented(server: FakeOpenAI) -> Iterator[FakeOpenAI]:
    """The server, with every run of the process hinted to it."""
    kvflow_pydantic_ai.instrument(base_urls=[server.base_url])
    yield server
    kvflow_pydantic_ai.uninstrument()


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test's runs teach is not known in the next."""
    monkeypatch.setattr(adapter.observer, "_apps", Apps(structure_of))
    monkeypatch.setattr(loops.adapter, "_apps", type(loops.adapter._apps)())


@pytest.fixture(autouse=True)
def nothing_failed() -> Iterator[None]:
    """Our part never fails; that it must not be noticed if it does is no excuse."""
    before = adapter.failsafe.errors
    yield
    assert adapter.failsafe.errors == before
