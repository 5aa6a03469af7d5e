"""All adapters of one environment in one process, turned on by one switch."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any, TypedDict

import agents
import pytest
from agents.run_internal import run_loop
from agents.tracing import set_trace_processors
from langgraph.graph import START, StateGraph
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import kvflow_agents
from kvflow_agents import ConfigurationError
from tests.fake_openai import FakeOpenAI
from tests.together.conftest import HERE

set_trace_processors([])

MODULES = {
    "kvflow_agent_framework": "agent_framework",
    "kvflow_openai_agents": "agents",
    "kvflow_pydantic_ai": "pydantic_ai",
}


class State(TypedDict, total=False):
    answer: str


def openai_agent(client: AsyncOpenAI, name: str) -> Any:
    model = agents.OpenAIChatCompletionsModel(model="fake", openai_client=client)
    return agents.Agent(name, instructions="Go on.", model=model)


def pydantic_agent(client: AsyncOpenAI, name: str) -> Agent[None, str]:
    provider = OpenAIProvider(openai_client=client)
    return Agent(OpenAIChatModel("fake", provider=provider), name=name)


def test_one_switch_turns_everything_on_that_is_installed(server: FakeOpenAI) -> None:
    found = kvflow_agents.instrument(base_urls=[server.base_url])
    assert found.on == HERE
    assert all("not installed" in reason for reason in found.skipped.values())
    assert kvflow_agents.instrument(base_urls=[server.base_url]).on == HERE


async def test_frameworks_beside_each_other_name_their_own_agents(
    client: AsyncOpenAI, server: FakeOpenAI
) -> None:
    kvflow_agents.instrument(base_urls=[server.base_url])
    await agents.Runner.run(openai_agent(client, "a"), "hi")
    await pydantic_agent(client, "b").run("hi")
    assert server.agents == ["a", "b"]
    assert len({request.workflow for request in server.requests}) == 2


async def test_a_framework_inside_another_is_hinted_once(
    client: AsyncOpenAI, server: FakeOpenAI
) -> None:
    kvflow_agents.instrument(base_urls=[server.base_url])
    inner, single = pydantic_agent(client, "inner"), openai_agent(client, "single")

    async def ask(state: State) -> State:
        return {"answer": (await inner.run("hi")).output}

    async def go_on(state: State) -> State:
        return {"answer": str((await agents.Runner.run(single, "hi")).final_output)}

    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_node("go_on", go_on)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "go_on")
    assert await graph.compile().ainvoke({}) == {"answer": "ok"}
    # Asked in the order of their names: the graph knows both of its nodes.
    assert server.agents == ["ask", "go_on"]
    assert server.requests[0].steps == {"ask": 0, "go_on": 1}
    for request in server.requests:
        assert sorted(request.body["custom_params"]) == ["kvflow", "kvflow_steps"]


@pytest.mark.parametrize("dialect", ["dynamo", "priority"])
async def test_it_is_hinted_once_in_other_dialects_too(
    dialect: str, client: AsyncOpenAI, server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("agent_hints", "dialects"):
        monkeypatch.setattr(f"kvflow_agents.{module}.priority_of", lambda hint: len(hint.agent))
    kvflow_agents.instrument(base_urls=[f"{dialect}+{server.base_url}"])
    inner = pydantic_agent(client, "the inner one")

    async def ask(state: State) -> State:
        return {"answer": (await inner.run("hi")).output}

    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    await graph.compile().ainvoke({})
    [request] = server.requests
    said = request.body if dialect == "priority" else request.body["nvext"]["agent_hints"]
    assert said["priority"] == len("ask")
    if dialect == "dynamo":
        headers = {name.lower(): value for name, value in request.headers.items()}
        parent = headers["x-dynamo-parent-session-id"]
        assert headers["x-dynamo-session-id"] == f"{parent}:ask"


async def test_a_framework_of_another_version_does_not_keep_the_others_off(
    client: AsyncOpenAI,
    server: FakeOpenAI,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    patches = importlib.import_module("kvflow_openai_agents._adapter").adapter.patches
    monkeypatch.setattr(patches, "_has_warned", False)
    with monkeypatch.context() as other, caplog.at_level(logging.WARNING, "kvflow_agents"):
        other.delattr(run_loop, "get_model")
        found = kvflow_agents.instrument(base_urls=[server.base_url])
    assert found.on == tuple(name for name in HERE if name != "openai-agents")
    assert found.skipped["openai-agents"] == "agents.run_internal.run_loop.get_model is missing"
    assert [record.getMessage() for record in caplog.records] == [
        "kvflow does not know this OpenAI Agents SDK and is off: "
        "agents.run_internal.run_loop.get_model is missing"
    ]
    await agents.Runner.run(openai_agent(client, "a"), "hi")
    await pydantic_agent(client, "b").run("hi")
    assert server.agents == [None, "b"]


@pytest.mark.parametrize("package", MODULES)
def test_a_framework_that_is_missing_is_named_with_what_to_install(
    package: str, server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = importlib.import_module(package)
    monkeypatch.setitem(sys.modules, MODULES[package], None)
    with pytest.raises(ConfigurationError, match=r"pip install 'kvflow-agents\["):
        adapter.instrument(base_urls=[server.base_url])
    with pytest.raises(ConfigurationError, match=r"pip install 'kvflow-agents\["):
        adapter.wrap(object(), base_urls=[server.base_url])
