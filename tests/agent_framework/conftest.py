"""Fixtures: a server, a client that talks to it, and an adapter that is off again after a test."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator

import pytest
from openai import AsyncOpenAI

import kvflow_agent_framework
from kvflow_agent_framework._adapter import adapter
from kvflow_agent_framework._structure import structure_of
from kvflow_agents.apps import Apps
from tests.fake_openai import FakeOpenAI


def deliver() -> None:
    """Wait for the forecasts that travel in the background."""
    gc.collect()
    adapter.observer.close_collected()
    assert adapter.subscriptions.courier.flush(10)


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
def instrumented(server: FakeOpenAI) -> Iterator[FakeOpenAI]:
    """The server, with every run of the process hinted to it."""
    kvflow_agent_framework.instrument(base_urls=[server.base_url])
    yield server
    kvflow_agent_framework.uninstrument()


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test's runs teach is not known in the next."""
    monkeypatch.setattr(adapter.observer, "_apps", Apps(structure_of))


@pytest.fixture(autouse=True)
def nothing_failed() -> Iterator[None]:
    """Our part never fails; that it must not be noticed if it does is no excuse."""
    before = adapter.failsafe.errors
    yield
    assert adapter.failsafe.errors == before
