"""Fixtures: a server, a client that talks to it, and an adapter that is off again after a test."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator

import pytest
from agents.tracing import set_trace_processors
from openai import AsyncOpenAI

from kvflow_openai_agents import _adapter
from tests.adapter_fixtures import (  # noqa: F401
    AnyAdapter,
    instrumented,
    nothing_failed,
    nothing_learned,
    server,
)
from tests.fake_openai import FakeOpenAI

# Traces are made, and sent nowhere.
set_trace_processors([])


@pytest.fixture
def adapter() -> AnyAdapter:
    return _adapter.adapter


@pytest.fixture
async def client(server: FakeOpenAI) -> AsyncIterator[AsyncOpenAI]:  # noqa: F811
    async with AsyncOpenAI(base_url=server.base_url, api_key="key", max_retries=0) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_learned_of_traces(adapter: AnyAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter.observer, "_traced_apps", OrderedDict())
