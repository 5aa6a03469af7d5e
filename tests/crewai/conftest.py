"""Fixtures: a server, and an adapter that is off again after a test. Nothing calls home."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import pytest

# Read when CrewAI is imported: no telemetry, no traces, no question whether to send some.
os.environ |= {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_TRACKING": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_TESTING": "true",
    "OTEL_SDK_DISABLED": "true",
    "CREWAI_STORAGE_DIR": tempfile.mkdtemp(),
}

with warnings.catch_warnings(action="ignore"):
    import crewai  # noqa: F401

from kvflow_crewai import _adapter
from tests.adapter_fixtures import (  # noqa: F401
    AnyAdapter,
    instrumented,
    nothing_failed,
    nothing_learned,
    server,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """CrewAI warns of what it uses itself."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture
def adapter() -> AnyAdapter:
    return _adapter.adapter
