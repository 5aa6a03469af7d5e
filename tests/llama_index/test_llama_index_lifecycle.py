"""On, off, for one workflow only, and not at all where LlamaIndex is not what we know."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

import kvflow_agents
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
    yield
    gc.collect()


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


async def test_the_switch_for_all_frameworks_turns_it_on(server: FakeOpenAI) -> None:
    found = kvflow_agents.instrument(base_urls=[server.base_url])
    try:
        assert "llama-index" in found.on
        await workflows.agent(server, "a").run(user_msg="hi")
        assert server.agents == ["a"]
    finally:
        kvflow_agents.uninstrument()


async def test_a_loop_of_ones_own_in_the_same_process_is_told_apart(
    instrumented: FakeOpenAI,
) -> None:
    client = openai.OpenAI(base_url=instrumented.base_url, api_key="key")
    with kvflow_agents.workflow("mine", base_urls=[instrumented.base_url]):
        with kvflow_agents.agent("me"):
            client.chat.completions.create(
                model="fake", messages=[{"role": "user", "content": "hi"}]
            )
    client.close()
    await workflows.agent(instrumented, "a").run(user_msg="hi")
    assert instrumented.agents == ["me", "a"]
    assert instrumented.requests[0].workflow == "mine"
    assert instrumented.requests[1].workflow != "mine"


def without_a_method(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delattr("workflows.workflow.Workflow._get_steps")
    return "Workflow._get_steps is missing"


def other_signature(monkeypatch: pytest.MonkeyPatch) -> str:
    def run_worker(self: Any, order: Any) -> None: ...

    monkeypatch.setattr(
        "workflows.runtime.control_loop.runner._ControlLoopRunner.run_worker", run_worker
    )
    return "_ControlLoopRunner.run_worker takes ('order',), not ('command',)"


@pytest.mark.parametrize("change", [other_signature, without_a_method])
def test_an_unknown_version_is_left_alone_with_one_warning(
    change: Callable[[pytest.MonkeyPatch], str],
    server: FakeOpenAI,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = sdk_methods()
    monkeypatch.setattr(adapter.patches, "_has_warned", False)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "kvflow_agents"):
        problem = change(patch)
        for _ in range(2):
            kvflow_llama_index.instrument(base_urls=[server.base_url])
        assert are_the_same(sdk_methods(), before)
        kvflow_llama_index.uninstrument()
    [record] = [record for record in caplog.records if record.name == "kvflow_agents"]
    assert record.getMessage() == f"kvflow does not know this LlamaIndex and is off: {problem}"


def test_a_missing_package_is_named_with_what_installs_it() -> None:
    code = (
        "import sys; sys.modules['llama_index.core'] = None\n"
        "import kvflow_llama_index, kvflow_agents\n"
        "try:\n"
        "    kvflow_llama_index.instrument(base_urls=['http://localhost:1/v1'])\n"
        "except kvflow_agents.ConfigurationError as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "kvflow-agents[llama-index]" in result.stdout
