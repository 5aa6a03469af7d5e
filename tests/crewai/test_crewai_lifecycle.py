"""What of CrewAI can be wrapped, and is hinted alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

import kvflow_crewai
from kvflow_agents import ConfigurationError
from kvflow_crewai import _patches
from kvflow_crewai._adapter import adapter
from tests.adapter_contract import sdk_methods
from tests.crewai import crews
from tests.fake_openai import FakeOpenAI


def methods() -> list[object]:
    seams = [seam for seam, _ in _patches.find(adapter.observer, adapter.failsafe)]
    return [*(seam.owner.__dict__[seam.name] for seam in seams), *sdk_methods()]


def are_the_same(some: list[object], others: list[object]) -> bool:
    return all(one is other for one, other in zip(some, others, strict=True))


@pytest.fixture(autouse=True)
def wrapped_crews_are_gone() -> Iterator[None]:
    """They keep the adapter on as long as they live."""
    gc.collect()
    adapter.subscriptions.close_collected()
    yield
    gc.collect()
    adapter.subscriptions.close_collected()


def test_a_wrapped_crew_and_its_copies_are_hinted_alone(server: FakeOpenAI) -> None:
    before = methods()
    crew, other = (crews.line(server, ["a", "b"]) for _ in range(2))
    assert kvflow_crewai.wrap(crew, base_urls=[server.base_url]) is crew
    other.kickoff()
    assert server.agents == [None, None]
    server.clear()
    crew.kickoff()
    crew.kickoff_for_each([{}])
    assert server.agents == ["a", "b"] * 2
    kept = methods()
    assert not are_the_same(kept, before)


def test_only_crews_can_be_wrapped(server: FakeOpenAI) -> None:
    with pytest.raises(ConfigurationError, match="not str"):
        kvflow_crewai.wrap("crew", base_urls=[server.base_url])
