"""Fixtures: a server, a model that talks to it, and an adapter that is off again after a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

import kvflow_autogen
from kvflow_agents.apps import Apps
from kvflow_autogen._adapter import adapter
from kvflow_autogen._structure import structure_of
from tests.autogen import teams
from tests.fake_openai import FakeOpenAI


def deliver() -> None:
    """Wait for the forecasts that travel in the background."""
    assert adapter.subscriptions.courier.flush(10)


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server
        deliver()


@pytest.fixture
async def model(server: FakeOpenAI) -> AsyncIterator[teams.Client]:
    client = teams.client(server)
    yield client
    await client.close()


@pytest.fixture
def instrumented(server: FakeOpenAI) -> Iterator[FakeOpenAI]:
    """The server, with every run of the process hinted to it."""
    kvflow_autogen.instrument(base_urls=[server.base_url])
    yield server
    kvflow_autogen.uninstrument()


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
