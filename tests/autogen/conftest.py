"""Fixtures: a server, a model that talks to it, and an adapter that is off again after a test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kvflow_autogen import _adapter
from tests.adapter_fixtures import (  # noqa: F401
    AnyAdapter,
    instrumented,
    nothing_failed,
    nothing_learned,
    server,
)
from tests.autogen import teams
from tests.fake_openai import FakeOpenAI


@pytest.fixture
def adapter() -> AnyAdapter:
    return _adapter.adapter


@pytest.fixture
async def model(server: FakeOpenAI) -> AsyncIterator[teams.Client]:  # noqa: F811
    client = teams.client(server)
    yield client
    await client.close()
