"""Fixtures: a server, and an adapter that is off again after a test. Nothing calls home."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
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

import kvflow_crewai
from kvflow_agents.apps import Apps
from kvflow_crewai._adapter import adapter
from kvflow_crewai._structure import structure_of
from tests.fake_openai import FakeOpenAI


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """CrewAI warns of what it uses itself."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore"))


def deliver() -> None:
    """Wait for the forecasts that travel in the background."""
    assert adapter.subscriptions.courier.flush(10)


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server
        deliver()


@pytest.fixture
def instrumented(server: FakeOpenAI) -> Iterator[FakeOpenAI]:
    """The server, with every run of the process hinted to it."""
    kvflow_crewai.instrument(base_urls=[server.base_url])
    yield server
    kvflow_crewai.uninstrument()


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
