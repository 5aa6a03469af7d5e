"""What of Google ADK can be wrapped, and is hinted alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

import kvflow_google_adk
from kvflow_agents import ConfigurationError
from kvflow_google_adk import _patches
from kvflow_google_adk._adapter import adapter
from tests.adapter_contract import sdk_methods
from tests.fake_openai import FakeOpenAI
from tests.google_adk import trees


def methods() -> list[object]:
    seams = [seam for seam, _ in _patches.find(adapter.observer, adapter.failsafe)]
    return [*(seam.owner.__dict__[seam.name] for seam in seams), *sdk_methods()]


def are_the_same(some: list[object], others: list[object]) -> bool:
    return all(one is other for one, other in zip(some, others, strict=True))


@pytest.fixture(autouse=True)
def wrapped_runners_are_gone() -> Iterator[None]:
    """They keep the adapter on as long as they live."""
    gc.collect()
    adapter.subscriptions.close_collected()
    yield
    gc.collect()
    adapter.subscriptions.close_collected()


async def test_a_wrapped_runner_is_itself_and_alone_hinted(server: FakeOpenAI) -> None:
    before = methods()
    runner, other = (trees.runner(trees.line(server, ["a", "b"])) for _ in range(2))
    assert kvflow_google_adk.wrap(runner, base_urls=[server.base_url]) is runner
    await trees.run(other)
    assert server.agents == [None, None]
    server.clear()
    await trees.run(runner)
    assert server.agents == ["a", "b"]
    await runner.close()
    del runner
    gc.collect()
    adapter.subscriptions.close_collected()
    assert are_the_same(methods(), before)


def test_only_runners_can_be_wrapped(server: FakeOpenAI) -> None:
    with pytest.raises(ConfigurationError, match="not str"):
        kvflow_google_adk.wrap("runner", base_urls=[server.base_url])
