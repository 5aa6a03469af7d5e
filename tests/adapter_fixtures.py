"""What the tests of every adapter need: a server, and an adapter that is off again after a test.

A folder's `conftest.py` imports the fixtures, and adds one named `adapter`.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeAlias

import pytest

from kvflow_agents.apps import Apps
from kvflow_agents.framework import FrameworkAdapter
from tests.fake_openai import FakeOpenAI

AnyAdapter: TypeAlias = FrameworkAdapter[Any]


def deliver(adapter: AnyAdapter) -> None:
    """Wait for the forecasts that travel in the background, and those of what is collected."""
    gc.collect()
    adapter.subscriptions.close_collected()
    for keeper in (adapter.observer, getattr(adapter.observer, "endings", None)):
        close_collected = getattr(keeper, "close_collected", None)
        if close_collected is not None:
            close_collected()
    assert adapter.subscriptions.courier.flush(30)


async def assert_as_without_us(
    adapter: AnyAdapter, server: FakeOpenAI, run: Callable[[], Awaitable[object]]
) -> None:
    """What a run comes to, a result or an error, and what it asks the model on its way."""
    plain = await _outcome(run), _asked(server)
    server.clear()
    server.unscript()
    adapter.subscriptions.subscribe_process([server.base_url])
    try:
        assert (await _outcome(run), _asked(server)) == plain
        assert None not in server.agents
    finally:
        adapter.subscriptions.unsubscribe_process()


async def _outcome(run: Callable[[], Awaitable[object]]) -> str:
    try:
        return f"result: {await run()}"
    except Exception as error:
        return f"error: {type(error).__name__}: {error}"


def _asked(server: FakeOpenAI) -> list[list[tuple[str, str]]]:
    """Who has said what, in each request."""
    return [
        [(each["role"], str(each.get("content"))) for each in request.body["messages"]]
        for request in server.requests
    ]


@pytest.fixture
def server(adapter: AnyAdapter, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    # A busy machine may take longer to answer than an application would wait: what is told then
    # is dropped, and so is all that is told in the ten seconds after.
    monkeypatch.setattr(adapter.subscriptions.courier, "_timeout_s", 30.0)
    with FakeOpenAI() as server:
        yield server
        deliver(adapter)


@pytest.fixture
def instrumented(adapter: AnyAdapter, server: FakeOpenAI) -> Iterator[FakeOpenAI]:
    """The server, with every run of the process hinted to it."""
    adapter.subscriptions.subscribe_process([server.base_url])
    yield server
    adapter.subscriptions.unsubscribe_process()


@pytest.fixture(autouse=True)
def nothing_learned(adapter: AnyAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test's runs teach is not known in the next."""
    structure_of = adapter.observer._apps._structure_of
    monkeypatch.setattr(adapter.observer, "_apps", Apps(structure_of))


@pytest.fixture(autouse=True)
def nothing_failed(adapter: AnyAdapter) -> Iterator[None]:
    """Our part never fails; that it must not be noticed if it does is no excuse."""
    before = adapter.failsafe.errors
    yield
    assert adapter.failsafe.errors == before
