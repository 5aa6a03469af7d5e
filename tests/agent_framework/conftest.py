"""Fixtures: a server, a client that talks to it, and an adapter that is off again after a test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from kvflow_agent_framework import _adapter
from tests.adapter_fixtures import (  # noqa: F401
    AnyAdapter,
    instrumented,
    nothing_failed,
    nothing_learned,
    server,
)
from tests.fake_openai import FakeOpenAI


@pytest.fixture
def adapter() -> AnyAdapter:
    return _adapter.adapter


@pytest.fixture
async def client(server: FakeOpenAI) -> AsyncIterator[AsyncOpenAI]:  # noqa: F811
    async with AsyncOpenAI(base_url=server.base_url, api_key="key", max_retries=0) as client:
        yield client
