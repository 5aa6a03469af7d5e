"""Fixtures: a server, a model that talks to it, and an adapter that is off again after a test."""

from __future__ import annotations

import pytest
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from kvflow_langgraph import _adapter
from tests.adapter_fixtures import (  # noqa: F401
    AnyAdapter,
    instrumented,
    nothing_failed,
    nothing_learned,
    server,
)
from tests.fake_openai import FakeOpenAI


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "langgraph" in item.path.parts:
            # langgraph-supervisor builds on an agent that LangGraph has moved.
            item.add_marker(pytest.mark.filterwarnings("ignore:create_react_agent has been moved"))


@pytest.fixture
def adapter() -> AnyAdapter:
    return _adapter.adapter


@pytest.fixture
def model(server: FakeOpenAI) -> ChatOpenAI:  # noqa: F811
    return ChatOpenAI(
        model="fake", base_url=server.base_url, api_key=SecretStr("key"), max_retries=0
    )
