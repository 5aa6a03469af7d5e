"""Fixtures: a server, and an adapter that is off again after a test. Nothing calls home."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Read when LiteLLM is imported: its prices come from its package.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

from kvflow_google_adk import _adapter
from tests.adapter_fixtures import (  # noqa: F401
    AnyAdapter,
    instrumented,
    nothing_failed,
    nothing_learned,
    server,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """ADK and LiteLLM warn of what they use themselves."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture
def adapter() -> AnyAdapter:
    return _adapter.adapter
