"""For every pattern that CrewAI has: who calls, and who was expected."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from crewai import Crew
from crewai.tasks.conditional_task import ConditionalTask
from crewai.tools import tool

from kvflow_crewai._adapter import adapter
from tests.adapter_contract import assert_expected, assert_foreseen
from tests.adapter_fixtures import assert_as_without_us, deliver
from tests.crewai import crews
from tests.crewai.crews import mark
from tests.fake_openai import FakeOpenAI, ToolCall


@pytest.fixture(autouse=True)
def usage_comes_last(instrumented: FakeOpenAI) -> None:
    instrumented.counts_at_end = True  # CrewAI takes a chunk with a usage for the last


def kick_off(crew: Crew, way: str) -> None:
    """Run a crew in one of the ways that there are."""
    if way == "stream":
        crew.stream = True
        for _ in crew.kickoff():
            pass
    elif way == "kickoff":
        crew.kickoff()
    else:
        asyncio.run(getattr(crew, way)())


every_way = pytest.mark.parametrize("way", ["kickoff", "kickoff_async", "akickoff", "stream"])


@every_way
def test_tasks_in_order_are_known_before_they_run(way: str, instrumented: FakeOpenAI) -> None:
    kick_off(crews.line(instrumented, ["a", "b", "c"]), way)
    assert instrumented.agents == ["a", "b", "c"]
    assert bool(instrumented.requests[0].body.get("stream")) == (way == "stream")
    assert_foreseen(instrumented.requests)
    assert instrumented.requests[1].steps == {"a": None, "b": 0, "c": 1}


@every_way
def test_tasks_at_once_are_planned_before_either_calls(way: str, instrumented: FakeOpenAI) -> None:
    instrumented.delay_s = 0.2
    kick_off(crews.branches(instrumented), way)
    calls = {request.agent: request.steps for request in instrumented.requests}
    assert calls == {
        "plan": {"plan": 0, "left": 1, "right": 1, "merge": 2},
        "left": {"left": 0, "right": 0, "merge": 1, "plan": None},
        "right": {"left": 0, "right": 0, "merge": 1, "plan": None},
        "merge": {"merge": 0, "plan": None, "left": None, "right": None},
    }


def delegate(to: str) -> ToolCall:
    return ToolCall(
        "delegate_work_to_coworker", {"task": "write", "context": "none", "coworker": to}
    )


@every_way
def test_a_manager_is_the_hub_of_its_agents(way: str, instrumented: FakeOpenAI) -> None:
    instrumented.script(mark("chief"), delegate("writer"), "done")
    kick_off(crews.managed(instrumented), way)
    assert instrumented.agents == ["chief", "writer", "chief"]
    hub, worker, again = instrumented.requests
    assert hub.steps == again.steps == {"chief": 0, "writer": 1, "editor": 1}
    assert worker.steps == {"writer": 0, "chief": 1, "editor": 2}


def test_work_for_nobody_stays_with_the_manager(instrumented: FakeOpenAI) -> None:
    instrumented.script(mark("chief"), delegate("nobody"), delegate("editor"), "done")
    assert str(crews.managed(instrumented).kickoff()) == "done"
    assert instrumented.agents == ["chief", "chief", "editor", "chief"]


async def test_work_for_nobody_ends_as_without_us(server: FakeOpenAI) -> None:
    async def run() -> object:
        server.script(mark("chief"), delegate("nobody"), delegate("editor"), "done")
        return str(crews.managed(server).kickoff())

    await assert_as_without_us(adapter, server, run)


def test_agents_that_may_delegate_are_neighbours(instrumented: FakeOpenAI) -> None:
    crew = crews.line(instrumented, ["a", "b"])
    crew.agents[0].allow_delegation = True
    instrumented.script("One of us.", delegate("b"))
    crew.kickoff()
    assert instrumented.agents == ["a", "b", "a", "b"]
    assert_foreseen(instrumented.requests)


@every_way
def test_a_crew_in_a_tool_is_inside_the_agent_that_uses_it(
    way: str, instrumented: FakeOpenAI
) -> None:
    @tool("ask")
    def ask() -> str:
        """Ask others."""
        return str(crews.line(instrumented, ["x", "y"]).kickoff())

    boss = crews.agent(instrumented, "boss", tools=[ask])
    crew = Crew(agents=[boss], tasks=[crews.task(boss)])
    for _ in range(2):
        instrumented.clear()
        instrumented.script(mark("boss"), ToolCall("ask"), "done")
        kick_off(crew, way)
        assert instrumented.agents == ["boss", "boss/x", "boss/y", "boss"]
        assert len({request.workflow for request in instrumented.requests}) == 1
    # Which crew the tool runs has been learned, and in what order it says itself.
    assert_expected(instrumented.requests)
    assert instrumented.requests[1].steps["boss/y"] == 1


@pytest.mark.parametrize("holds", [True, False])
def test_a_condition_leaves_both_ways_open(holds: bool, instrumented: FakeOpenAI) -> None:
    agents = {name: crews.agent(instrumented, name) for name in "abc"}

    def decide(output: Any) -> bool:
        return holds

    maybe = ConditionalTask(
        description="Perhaps.", expected_output="a word", agent=agents["b"], condition=decide
    )
    tasks = [crews.task(agents["a"]), maybe, crews.task(agents["c"])]
    Crew(agents=list(agents.values()), tasks=tasks).kickoff()
    assert instrumented.agents == (["a", "b", "c"] if holds else ["a", "c"])
    assert instrumented.requests[0].steps == {"a": 0, "b": 1, "c": 1}


def test_one_run_for_each_input_is_a_workflow_each(instrumented: FakeOpenAI) -> None:
    crews.line(instrumented, ["a", "b"]).kickoff_for_each([{}, {}])
    assert instrumented.agents == ["a", "b"] * 2
    assert len({request.workflow for request in instrumented.requests}) == 2
    deliver(adapter)
    assert [end.forecast.done for end in instrumented.forecasts] == [True, True]


def test_a_run_that_fails_is_over(instrumented: FakeOpenAI) -> None:
    crew = crews.line(instrumented, ["a", "b"])

    def fail(output: Any) -> None:
        raise LookupError("mine")

    crew.tasks[0].callback = fail
    with pytest.raises(LookupError, match="mine"):
        crew.kickoff()
    deliver(adapter)
    assert instrumented.agents == ["a"]
    assert [end.forecast.done for end in instrumented.forecasts] == [True]
