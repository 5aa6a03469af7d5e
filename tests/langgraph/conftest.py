"""Fixtures: a server, a model that talks to it, and an adapter that is off again after a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

import kvflow_langgraph
from kvflow_agents.apps import Apps
from kvflow_langgraph._adapter import adapter
from kvflow_langgraph._structure import structure_of
from tests.fake_openai import FakeOpenAI


def deliver() -> None:
    """Wait for the forecasts that travel in the background."""
    assert adapter.subscriptions.courier.flush(10)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "langgraph" in item.path.parts:
            # langgraph-supervisor builds on an agent that LangGraph has moved.
            item.add_marker(pytest.mark.filterwarnings("ignore:create_react_agent has been moved"))


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server
        deliver()


@pytest.fixture
def model(server: FakeOpenAI) -> ChatOpenAI:
    return ChatOpenAI(
        model="fake", base_url=server.base_url, api_key=SecretStr("key"), max_retries=0
    )


@pytest.fixture
def instrumented(server: FakeOpenAI) -> Iterator[FakeOpenAI]:
    """The server, with every run of the process hinted to it."""
    kvflow_langgraph.instrument(base_urls=[server.base_url])
    yield server
    kvflow_langgraph.uninstrument()


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
