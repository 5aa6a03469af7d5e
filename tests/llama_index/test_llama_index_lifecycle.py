"""What of LlamaIndex can be wrapped, and is hinted alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

import kvflow_llama_index
from kvflow_agents import ConfigurationError
from kvflow_llama_index import _patches
from kvflow_llama_index._adapter import adapter
from tests.adapter_contract import sdk_methods
from tests.fake_openai import FakeOpenAI
from tests.llama_index import workflows


def methods() -> list[object]:
    seams = [seam for seam, _ in _patches.find(adapter.observer, adapter.failsafe)]
    return [*(seam.owner.__dict__[seam.name] for seam in seams), *sdk_methods()]


def are_the_same(some: list[object], others: list[object]) -> bool:
    return all(one is other for one, other in zip(some, others, strict=True))


@pytest.fixture(autouse=True)
def wrapped_workflows_are_gone() -> Iterator[None]:
    """They keep the adapter on as long as they live."""
    gc.collect()
    adapter.subscriptions.close_collected()
    yield
    gc.collect()
    adapter.subscriptions.close_collected()


async def test_a_wrapped_workflow_is_itself_and_alone_hinted(server: FakeOpenAI) -> None:
    before = methods()
    team, other = (workflows.chain(server, ["a", "b"]) for _ in range(2))
    assert kvflow_llama_index.wrap(team, base_urls=[server.base_url]) is team
    await other.run(user_msg=workflows.script_chain(server, ["a", "b"]))
    assert server.agents == [None, None]
    server.clear()
    await team.run(user_msg=workflows.script_chain(server, ["a", "b"]))
    assert server.agents == ["a", "b"]
    del team
    gc.collect()
    adapter.subscriptions.close_collected()
    assert are_the_same(methods(), before)


async def test_agents_and_workflows_of_steps_can_be_wrapped(server: FakeOpenAI) -> None:
    agent = kvflow_llama_index.wrap(workflows.agent(server, "a"), base_urls=[server.base_url])
    steps = kvflow_llama_index.wrap(workflows.line(server, ["x"]), base_urls=[server.base_url])
    await agent.run(user_msg="hi")
    await steps.run()
    assert server.agents == ["a", "x"]


def test_only_workflows_can_be_wrapped(server: FakeOpenAI) -> None:
    with pytest.raises(ConfigurationError, match="not str"):
        kvflow_llama_index.wrap("team", base_urls=[server.base_url])
