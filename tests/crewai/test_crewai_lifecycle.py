"""On, off, for one workflow only, and not at all where CrewAI is not what we know."""

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
    yield
    gc.collect()


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


def test_the_switch_for_all_frameworks_turns_it_on(server: FakeOpenAI) -> None:
    found = kvflow_agents.instrument(base_urls=[server.base_url])
    try:
        assert "crewai" in found.on
        crews.line(server, ["a"]).kickoff()
        assert server.agents == ["a"]
    finally:
        kvflow_agents.uninstrument()


def test_a_loop_of_ones_own_in_the_same_process_is_told_apart(
    instrumented: FakeOpenAI,
) -> None:
    client = openai.OpenAI(base_url=instrumented.base_url, api_key="key")
    with kvflow_agents.workflow("mine", base_urls=[instrumented.base_url]):
        with kvflow_agents.agent("me"):
            client.chat.completions.create(
                model="fake", messages=[{"role": "user", "content": "hi"}]
            )
    client.close()
    crews.line(instrumented, ["a"]).kickoff()
    assert instrumented.agents == ["me", "a"]
    assert instrumented.requests[0].workflow == "mine"
    assert instrumented.requests[1].workflow != "mine"


def without_a_method(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delattr("crewai.Crew._aexecute_tasks")
    return "Crew._aexecute_tasks is missing"


def other_signature(monkeypatch: pytest.MonkeyPatch) -> str:
    def execute_task(self: Any, work: Any) -> None: ...

    monkeypatch.setattr("crewai.Agent.execute_task", execute_task)
    return "Agent.execute_task takes no task"


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
            kvflow_crewai.instrument(base_urls=[server.base_url])
        assert are_the_same(sdk_methods(), before)
        kvflow_crewai.uninstrument()
    [record] = [record for record in caplog.records if record.name == "kvflow_agents"]
    assert record.getMessage() == f"kvflow does not know this CrewAI and is off: {problem}"


def test_a_missing_package_is_named_with_what_installs_it() -> None:
    code = (
        "import sys; sys.modules['crewai'] = None\n"
        "import kvflow_crewai, kvflow_agents\n"
        "try:\n"
        "    kvflow_crewai.instrument(base_urls=['http://localhost:1/v1'])\n"
        "except kvflow_agents.ConfigurationError as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "kvflow-agents[crewai]" in result.stdout
