"""On, off, for one workflow only, and not at all where Google ADK is not what we know."""

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
    yield
    gc.collect()


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
    assert are_the_same(methods(), before)


def test_only_runners_can_be_wrapped(server: FakeOpenAI) -> None:
    with pytest.raises(ConfigurationError, match="not str"):
        kvflow_google_adk.wrap("runner", base_urls=[server.base_url])


async def test_the_switch_for_all_frameworks_turns_it_on(server: FakeOpenAI) -> None:
    found = kvflow_agents.instrument(base_urls=[server.base_url])
    try:
        assert "google-adk" in found.on
        await trees.run(trees.runner(trees.agent(server, "a")))
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
    await trees.run(trees.runner(trees.agent(instrumented, "a")))
    assert instrumented.agents == ["me", "a"]
    assert instrumented.requests[0].workflow == "mine"
    assert instrumented.requests[1].workflow != "mine"


def without_a_method(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delattr("google.adk.workflow.Workflow._start_node_task")
    return "Workflow._start_node_task is missing"


def other_signature(monkeypatch: pytest.MonkeyPatch) -> str:
    def run_async(self: Any, context: Any) -> None: ...

    monkeypatch.setattr("google.adk.agents.BaseAgent.run_async", run_async)
    return "BaseAgent.run_async takes no parent_context"


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
            kvflow_google_adk.instrument(base_urls=[server.base_url])
        assert are_the_same(sdk_methods(), before)
        kvflow_google_adk.uninstrument()
    [record] = [record for record in caplog.records if record.name == "kvflow_agents"]
    assert record.getMessage() == f"kvflow does not know this Google ADK and is off: {problem}"


def test_a_missing_package_is_named_with_what_installs_it() -> None:
    code = (
        "import sys; sys.modules['google.adk.runners'] = None\n"
        "import kvflow_google_adk, kvflow_agents\n"
        "try:\n"
        "    kvflow_google_adk.instrument(base_urls=['http://localhost:1/v1'])\n"
        "except kvflow_agents.ConfigurationError as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "kvflow-agents[google-adk]" in result.stdout
