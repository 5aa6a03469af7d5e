"""Fixtures: a server, and an adapter that is off again after a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvflow_llama_index import _adapter
from tests.adapter_fixtures import (  # noqa: F401
    AnyAdapter,
    instrumented,
    nothing_failed,
    nothing_learned,
    server,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """LlamaIndex looks at all attributes of its agents, those that pydantic deprecates included."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"))


@pytest.fixture
def adapter() -> AnyAdapter:
    return _adapter.adapter
