"""The patterns of Pydantic AI's documentation: who calls, and who was expected to."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic_ai import Agent, UnexpectedModelBehavior
from pydantic_ai.agent import WrapperAgent
from pydantic_ai.models.openai import OpenAIChatModel

import kvflow_agents
import kvflow_pydantic_ai
from kvflow_agents import ConfigurationError
from kvflow_pydantic_ai._adapter import adapter
from tests.adapter_contract import assert_foreseen
from tests.adapter_fixtures import assert_as_without_us, deliver
from tests.fake_openai import FakeOpenAI, ToolCall

AnyAgent = Agent[None, Any]


def agent(model: OpenAIChatModel, name: str, **options: Any) -> AnyAgent:
    return Agent(model, name=name, instructions=f"You are {name}.", **options)


def boss_with(model: OpenAIChatModel, *helpers: AnyAgent) -> AnyAgent:
    """An agent with a tool for each of some others, which asks it."""
    boss = agent(model, "boss")

    def add(helper: AnyAgent) -> None:
        @boss.tool_plain(name=f"ask_{helper.name}")
        async def ask() -> str:
            return str((await helper.run("well?")).output)

    for helper in helpers:
        add(helper)
    return boss


WAYS = ("run", "run_sync", "run_stream", "run_stream_events")
every_way = pytest.mark.parametrize("way", WAYS)


async def run(agent: AnyAgent, prompt: str, way: str) -> None:
    """Run an agent in one of the ways that there are."""
    if way == "run":
        await agent.run(prompt)
    elif way == "run_sync":
        await asyncio.to_thread(_run_sync, agent, prompt)
    elif way == "run_stream":
        async with agent.run_stream(prompt) as stream:
            await stream.get_output()
    else:
        async with agent.run_stream_events(prompt) as events:
            async for _ in events:
                pass


def _run_sync(agent: AnyAgent, prompt: str) -> None:
    with asyncio.Runner() as loop:  # Pydantic AI takes the thread's own
        asyncio.set_event_loop(loop.get_loop())
        agent.run_sync(prompt)


def done(server: FakeOpenAI) -> list[bool]:
    deliver(adapter)
    return [end.forecast.done for end in server.forecasts]


@every_way
async def test_an_agent_that_a_tool_asks_is_expected_once_it_was_asked(
    way: str, model: OpenAIChatModel, instrumented: FakeOpenAI
) -> None:
    boss = boss_with(model, agent(model, "helper"))
    for _ in range(2):
        instrumented.clear()
        instrumented.script("You are boss", ToolCall("ask_helper"), "done")
        await run(boss, "hi", way)
    assert instrumented.agents == ["boss", "boss/helper", "boss"]
    is_streamed = way.startswith("run_stream")
    assert bool(instrumented.requests[0].body.get("stream")) == is_streamed
    assert instrumented.requests[0].steps == {"boss": 0, "boss/helper": 1}
    assert instrumented.requests[1].steps["boss/helper"] == 0
    assert len({request.workflow for request in instrumented.requests}) == 1


@every_way
async def test_agents_that_tools_ask_at_once_are_told_apart(
    way: str, model: OpenAIChatModel, instrumented: FakeOpenAI
) -> None:
    helpers = [agent(model, name) for name in ("french", "spanish")]
    boss = agent(model, "boss")

    @boss.tool_plain
    async def translate() -> str:
        await asyncio.gather(*(helper.run("hi") for helper in helpers))
        return "translated"

    instrumented.delay_s = 0.05
    for _ in range(2):
        instrumented.clear()
        instrumented.script("You are boss", ToolCall("translate"), "done")
        await run(boss, "go on", way)
        agents = sorted(map(str, instrumented.agents))
        assert agents == ["boss", "boss", "boss/french", "boss/spanish"]
        both = instrumented.requests[2].steps
        assert both["boss/french"] == both["boss/spanish"] == 0
    # Known from the second run on: one of them follows the boss, the other begins beside it.
    first, second = instrumented.requests[:2]
    assert first.steps["boss"] == 0 and 1 in (
        first.steps["boss/french"],
        first.steps["boss/spanish"],
    )
    other = "boss/french" if second.agent == "boss/spanish" else "boss/spanish"
    assert second.steps[str(second.agent)] == 0 and second.steps[other] in (0, 1)


@every_way
async def test_an_output_function_that_hands_over_asks_inside(
    way: str, model: OpenAIChatModel, instrumented: FakeOpenAI
) -> None:
    expert = agent(model, "expert")

    async def hand_over(question: str) -> str:
        return str((await expert.run(question)).output)

    router = agent(model, "router", output_type=[hand_over])
    for _ in range(2):
        instrumented.clear()
        instrumented.script("You are router", ToolCall("final_result", {"question": "why?"}))
        await run(router, "hi", way)
        assert instrumented.agents == ["router", "router/expert"]
        assert instrumented.requests[1].steps["router/expert"] == 0
    # Known from the second run on.
    assert instrumented.requests[0].steps == {"router": 0, "router/expert": 1}


@every_way
async def test_agents_in_turn_in_a_workflow_are_foreseen_once_seen(
    way: str, model: OpenAIChatModel, instrumented: FakeOpenAI
) -> None:
    agents = [agent(model, name) for name in ("outline", "draft", "check")]
    for _ in range(2):
        instrumented.clear()
        with kvflow_agents.workflow(app="story", base_urls=[instrumented.base_url]):
            for each in agents:
                await run(each, "hi", way)
    assert instrumented.agents == ["outline", "draft", "check"]
    assert_foreseen(instrumented.requests)


async def test_a_tool_that_calls_the_model_calls_for_its_agent(
    client: AsyncOpenAI, model: OpenAIChatModel, instrumented: FakeOpenAI
) -> None:
    boss = agent(model, "boss")

    @boss.tool_plain
    async def look_up() -> str:
        message: Any = {"role": "user", "content": "a tool"}
        await client.chat.completions.create(model="fake", messages=[message])
        return "found"

    instrumented.script("You are boss", ToolCall("look_up"), "done")
    await boss.run("hi")
    assert instrumented.agents == ["boss"] * 3


async def test_agents_at_once_in_a_workflow_are_one_step(
    model: OpenAIChatModel, instrumented: FakeOpenAI
) -> None:
    french, spanish, picker = (agent(model, name) for name in ("french", "spanish", "picker"))
    instrumented.delay_s = 0.05
    for _ in range(2):
        instrumented.clear()
        with kvflow_agents.workflow(app="translate", base_urls=[instrumented.base_url]):
            await asyncio.gather(french.run("hi"), spanish.run("hi"))
            await picker.run("hi")
    assert instrumented.agents == ["french", "spanish", "picker"]
    assert instrumented.requests[1].steps == {"french": 0, "spanish": 0, "picker": 1}


async def test_in_a_workflow_agents_of_tools_are_inside_too(
    model: OpenAIChatModel, instrumented: FakeOpenAI
) -> None:
    boss = boss_with(model, agent(model, "helper"))
    for _ in range(2):
        instrumented.clear()
        instrumented.script("You are boss", ToolCall("ask_helper"), "done")
        with kvflow_agents.workflow(app="boss", base_urls=[instrumented.base_url]):
            await boss.run("hi")
    assert instrumented.agents == ["boss", "boss/helper", "boss"]
    assert instrumented.requests[0].steps["boss/helper"] == 1


async def test_a_stream_that_is_left_ends_its_run(
    model: OpenAIChatModel, instrumented: FakeOpenAI
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with agent(model, "a").run_stream("hi") as stream:
            async for _ in stream.stream_text(delta=True):
                raise ZeroDivisionError
    assert len(adapter.observer._runs) == 0
    del stream
    assert done(instrumented)[-1]


async def test_runs_that_are_driven_in_turn_are_told_apart(
    model: OpenAIChatModel, instrumented: FakeOpenAI
) -> None:
    async with agent(model, "a").iter("hi") as first, agent(model, "b").iter("hi") as second:
        async for _ in first:
            pass
        async for _ in second:
            pass
    assert instrumented.agents == ["a", "a/b"]


async def test_a_message_history_goes_on_with_its_workflow(
    model: OpenAIChatModel, instrumented: FakeOpenAI
) -> None:
    writer = agent(model, "writer")
    result = await writer.run("hi")
    await writer.run("go on", message_history=result.all_messages())
    assert len({request.workflow for request in instrumented.requests}) == 1
    assert done(instrumented) == [False, False]
    seqs = [request.hint.forecast.seq for request in instrumented.requests if request.hint]
    assert seqs[0] < instrumented.forecasts[0].forecast.seq < seqs[1]


async def test_a_run_is_done_when_nobody_can_go_on_from_its_result(
    model: OpenAIChatModel, instrumented: FakeOpenAI
) -> None:
    result = await agent(model, "a").run("hi")
    assert done(instrumented) == [False]
    assert result.output == "ok"
    del result
    assert done(instrumented) == [False, True]


async def test_a_conversation_with_a_name_is_a_workflow_of_that_name(
    model: OpenAIChatModel, instrumented: FakeOpenAI
) -> None:
    await agent(model, "a").run("hi", conversation_id="ticket-7")
    assert {request.workflow for request in instrumented.requests} == {"ticket-7"}
    assert done(instrumented) == [False]


async def test_pydantic_ai_finds_the_names_that_it_would_without_us(
    model: OpenAIChatModel, instrumented: FakeOpenAI
) -> None:
    poet: AnyAgent = Agent(model)
    await poet.run("hi")
    nameless: list[AnyAgent] = [Agent(model)]
    async with nameless[0].iter("hi") as run:
        async for _ in run:
            pass
    assert (poet.name, nameless[0].name) == ("poet", None)
    assert instrumented.agents == ["poet", "agent"]


async def test_a_tool_that_does_not_exist_fails_as_without_us(
    model: OpenAIChatModel, instrumented: FakeOpenAI
) -> None:
    instrumented.script("You are a", *4 * [ToolCall("hand_over_to_nobody")])
    with pytest.raises(UnexpectedModelBehavior):
        await agent(model, "a").run("hi")
    assert set(instrumented.agents) == {"a"}
    assert len(adapter.observer._runs) == 0
    assert done(instrumented) == [True]


async def test_a_handoff_to_nobody_ends_as_without_us(
    model: OpenAIChatModel, server: FakeOpenAI
) -> None:
    async def run() -> object:
        server.script("You are a", *4 * [ToolCall("hand_over_to_nobody")])
        return await agent(model, "a").run("hi")

    await assert_as_without_us(adapter, server, run)


async def test_only_runs_of_a_wrapped_agent_are_hinted(
    model: OpenAIChatModel, server: FakeOpenAI
) -> None:
    wrapped, other = agent(model, "a"), agent(model, "a")
    outer = WrapperAgent(wrapped)
    assert kvflow_pydantic_ai.wrap(outer, base_urls=[server.base_url]) is outer
    await outer.run("hi")
    await wrapped.run("hi")
    await other.run("hi")
    assert server.agents == ["a", "a", None]
    del wrapped, outer
    gc.collect()
    adapter.subscriptions.close_collected()
    assert not adapter.patches._originals


def test_what_is_no_agent_cannot_be_wrapped() -> None:
    with pytest.raises(ConfigurationError, match="not str"):
        kvflow_pydantic_ai.wrap("agent", base_urls=["http://localhost:1/v1"])


async def test_who_follows_in_a_tool_is_foreseen(
    model: OpenAIChatModel, instrumented: FakeOpenAI
) -> None:
    boss = agent(model, "boss")
    steps = [agent(model, name) for name in ("outline", "draft", "check")]

    @boss.tool_plain
    async def write() -> str:
        for step in steps:
            await step.run("go on")
        return "written"

    for _ in range(2):
        instrumented.clear()
        instrumented.script("You are boss", ToolCall("write"), "done")
        await boss.run("hi")
    assert instrumented.agents[1:4] == ["boss/outline", "boss/draft", "boss/check"]
    assert_foreseen(instrumented.requests[:4])
