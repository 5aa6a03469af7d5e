"""Fixtures: a server, a client that talks to it, and an adapter that is off again after a test."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator

import pytest
from agents.tracing import set_trace_processors
from openai import AsyncOpenAI

import kvflow_openai_agents
from kvflow_agents.apps import Apps
from kvflow_openai_agents._adapter import adapter
from kvflow_openai_agents._structure import structure_of
from tests.fake_openai import FakeOpenAI

# Traces are made, and sent nowhere.
set_trace_processors([])


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server
        gc.collect()
        adapter.observer.endings.close_collected()
        assert adapter.subscriptions.courier.flush(10)


@pytest.fixture
async def client(server: FakeOpenAI) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=server.base_url, api_key="key", max_retries=0) as client:
        yield client


@pytest.fixture
def instrumented(server: FakeOpenAI) -> Iterator[FakeOpenAI]:
    """The server, with every run of the process hinted to it."""
    kvflow_openai_agents.instrument(base_urls=[server.base_url])
    yield server
    kvflow_openai_agents.uninstrument()


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test's runs teach is not known in the next."""
    monkeypatch.setattr(adapter.observer, "_apps", Apps(structure_of))
    monkeypatch.setattr(adapter.observer, "_traced_apps", OrderedDict())


@pytest.fixture(autouse=True)
def nothing_failed() -> Iterator[None]:
    """Our part never fails; that it must not be noticed if it does is no excuse."""
    before = adapter.failsafe.errors
    yield
    assert adapter.failsafe.errors == before
