"""The patterns of the SDK's documentation: who calls, and who was expected to."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import openai
import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    ModelBehaviorError,
    RunConfig,
    Runner,
    SQLiteSession,
    function_tool,
    handoff,
    set_tracing_disabled,
    trace,
)
from openai import AsyncOpenAI

import kvflow_openai_agents
from kvflow_agents import ConfigurationError
from kvflow_openai_agents._adapter import adapter
from kvflow_openai_agents._structure import structure_of
from tests.adapter_contract import assert_foreseen
from tests.adapter_fixtures import assert_as_without_us, deliver
from tests.fake_openai import FakeOpenAI, ToolCall
from tests.openai_agents import apps


def workflows(server: FakeOpenAI) -> set[str]:
    return {str(request.workflow) for request in server.requests}


every_way = pytest.mark.parametrize("way", apps.WAYS)


@every_way
async def test_whom_an_agent_can_hand_over_to_is_expected_next(
    way: str, client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    french, spanish = (apps.agent(client, name) for name in ("french", "spanish"))
    triage = apps.agent(client, "triage", handoffs=[french, handoff(spanish)])
    instrumented.script("hola", ToolCall("transfer_to_spanish"))
    await apps.run(triage, "hola", way)
    assert instrumented.agents == ["triage", "spanish"]
    is_streamed = way == "run_streamed"
    assert bool(instrumented.requests[0].body.get("stream")) == is_streamed
    assert instrumented.requests[0].steps == {"triage": 0, "french": 1, "spanish": 1}
    last = instrumented.requests[1].steps
    assert last["spanish"] == 0 and last["triage"] is None


@every_way
async def test_an_agent_as_a_tool_is_known_before_it_is_used(
    way: str, client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    helper = apps.agent(client, "helper")
    boss = apps.agent(client, "boss", tools=[helper.as_tool("ask_helper", "Ask.")])
    instrumented.script("hi boss", ToolCall("ask_helper", {"input": "well?"}))
    await apps.run(boss, "hi boss", way)
    assert instrumented.agents == ["boss", "boss/helper", "boss"]
    assert instrumented.requests[0].steps == {"boss": 0, "boss/helper": 1}
    assert instrumented.requests[1].steps["boss/helper"] == 0
    assert len(workflows(instrumented)) == 1


async def test_a_tool_that_calls_the_model_calls_for_its_agent(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    @function_tool
    async def look_up() -> str:
        message: Any = {"role": "user", "content": "a tool"}
        await client.chat.completions.create(model="fake", messages=[message])
        return "found"

    instrumented.script("hi boss", ToolCall("look_up"))
    await Runner.run(apps.agent(client, "boss", tools=[look_up]), "hi boss")
    assert instrumented.agents == ["boss"] * 3


@every_way
async def test_agents_that_code_runs_in_turn_are_one_workflow_if_a_trace_says_so(
    way: str, client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    agents = [apps.agent(client, name) for name in ("outline", "check", "write")]

    async def story() -> None:
        with trace("story"):
            for agent in agents:
                await apps.run(agent, "go on", way)

    await story()
    assert len(workflows(instrumented)) == 1
    instrumented.clear()
    await story()
    assert instrumented.agents == ["outline", "check", "write"]
    assert_foreseen(instrumented.requests)
    assert instrumented.requests[0].steps == {"outline": 0, "check": 1, "write": 2}
    deliver(adapter)
    assert [end.forecast.done for end in instrumented.forecasts if end.forecast.done]


@pytest.mark.parametrize("way", ["run", "run_streamed"])
async def test_agents_that_code_runs_at_once_are_one_step_of_a_trace(
    way: str, client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    agents = [apps.agent(client, name) for name in ("french", "spanish")]
    picker = apps.agent(client, "picker")
    instrumented.delay_s = 0.05
    for _ in range(2):
        instrumented.clear()
        with trace("translate"):
            await asyncio.gather(*(apps.run(agent, "go on", way) for agent in agents))
            await apps.run(picker, "go on", way)
    assert instrumented.agents == ["french", "spanish", "picker"]
    first, second, last = instrumented.requests
    # Planned by then, or expected right after.
    both = {"french": 0, "spanish": 0, "picker": 1}
    assert first.steps in (both, both | {"spanish": 1, "picker": 2})
    assert second.steps == both
    assert last.steps["picker"] == 0


async def test_without_tracing_runs_are_told_apart_all_the_same(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    set_tracing_disabled(True)
    try:
        first = apps.chain(client, ["a", "b"])
        instrumented.calls_tools = True
        await Runner.run(first, "go on")
        with trace("two runs"):
            await Runner.run(first, "go on")
            await Runner.run(first, "go on")
    finally:
        set_tracing_disabled(False)
    assert instrumented.agents == ["a", "b"] * 3
    assert len(workflows(instrumented)) == 2


async def test_a_stream_that_is_cancelled_ends_its_run(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    stream = Runner.run_streamed(apps.agent(client, "a"), "go on")
    async for event in stream.stream_events():
        if event.type == "raw_response_event":
            stream.cancel()
    del stream, event
    deliver(adapter)
    assert len(adapter.observer._runs) == 0
    assert instrumented.forecasts[-1].forecast.done


async def test_a_guardrail_that_runs_an_agent_runs_it_inside(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    judge = apps.agent(client, "judge")

    async def check(context: Any, agent: Agent, input: Any) -> GuardrailFunctionOutput:
        await Runner.run(judge, "fine?")
        return GuardrailFunctionOutput(None, tripwire_triggered=False)

    guarded = apps.agent(client, "guarded", input_guardrails=[InputGuardrail(check)])
    await Runner.run(guarded, "go on")
    assert sorted(map(str, instrumented.agents)) == ["guarded", "guarded/judge"]
    assert len(workflows(instrumented)) == 1


async def test_a_session_is_a_workflow_that_goes_on(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    agent, session = apps.agent(client, "a"), SQLiteSession("ticket-7")
    for _ in range(2):
        await Runner.run(agent, "go on", session=session)
    session.close()
    assert len(workflows(instrumented)) == 1
    other = apps.agent(client, "b")
    session = SQLiteSession("ticket-7")
    await Runner.run(other, "go on", session=session)
    session.close()
    one, another = sorted(workflows(instrumented))
    assert one.partition("@")[0] == another.partition("@")[0] == "ticket-7"
    deliver(adapter)
    assert [end.forecast.done for end in instrumented.forecasts] == [False, False, False]


async def test_a_group_is_a_workflow_that_goes_on(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    for _ in range(2):
        await Runner.run(apps.agent(client, "a"), "go on", run_config=RunConfig(group_id="chat-3"))
    assert len(workflows(instrumented)) == 1
    for _ in range(2):
        with trace("chat", group_id="chat-3"):
            await Runner.run(apps.agent(client, "a"), "go on")
    deliver(adapter)
    # In a trace it is another application's: whatever its code runs.
    one, another = sorted(workflows(instrumented))
    assert one.partition("@")[0] == another.partition("@")[0] == "chat-3"
    assert not any(end.forecast.done for end in instrumented.forecasts)


async def test_a_run_is_done_when_nobody_can_go_on_from_its_result(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    result = await Runner.run(apps.agent(client, "a"), "go on")
    deliver(adapter)
    assert [end.forecast.done for end in instrumented.forecasts] == [False]
    del result
    deliver(adapter)
    assert [end.forecast.done for end in instrumented.forecasts] == [False, True]


async def test_a_conversation_that_its_caller_keeps_is_never_done(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    result = await Runner.run(apps.agent(client, "a"), "hi")
    more: Any = {"role": "user", "content": "go on"}
    await Runner.run(apps.agent(client, "a"), [*result.to_input_list(), more])
    deliver(adapter)
    assert [end.forecast.done for end in instrumented.forecasts] == [False, False]


async def test_a_handoff_to_an_agent_that_does_not_exist_fails_as_without_us(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    async def nobody(context: Any) -> Agent:
        raise RuntimeError("nobody is there")

    ghost: Any = handoff(apps.agent(client, "ghost"))
    ghost.on_invoke_handoff = nobody
    agent = apps.agent(client, "a", handoffs=[ghost])
    instrumented.script("hi", ToolCall("transfer_to_somebody"), ToolCall("transfer_to_ghost"))
    with pytest.raises(ModelBehaviorError):
        await Runner.run(agent, "hi")
    with pytest.raises((RuntimeError, TypeError)):
        await Runner.run(agent, "hi")
    deliver(adapter)
    assert instrumented.agents == ["a", "a"]
    assert [end.forecast.done for end in instrumented.forecasts] == [True, True]
    assert len(adapter.observer._runs) == 0


@pytest.mark.parametrize("target", ["somebody", "ghost"])
async def test_a_handoff_to_nobody_ends_as_without_us(
    target: str, client: AsyncOpenAI, server: FakeOpenAI
) -> None:
    async def nobody(context: Any) -> Agent:
        raise RuntimeError("nobody is there")

    async def run() -> object:
        ghost: Any = handoff(apps.agent(client, "ghost"))
        ghost.on_invoke_handoff = nobody
        server.script("hi", ToolCall(f"transfer_to_{target}"))
        return await Runner.run(apps.agent(client, "a", handoffs=[ghost]), "hi")

    await assert_as_without_us(adapter, server, run)


async def test_a_server_that_fails_fails_the_run_as_without_us(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    instrumented.stop()
    with pytest.raises(openai.APIConnectionError):
        await Runner.run(apps.agent(client, "a"), "hi")
    assert len(adapter.observer._runs) == 0


async def test_only_runs_of_a_wrapped_agent_are_hinted(
    client: AsyncOpenAI, server: FakeOpenAI
) -> None:
    wrapped, other = apps.agent(client, "a"), apps.agent(client, "a")
    assert kvflow_openai_agents.wrap(wrapped, base_urls=[server.base_url]) is wrapped
    await Runner.run(wrapped, "hi")
    await Runner.run(other, "hi")
    assert server.agents == ["a", None]
    del wrapped
    gc.collect()
    adapter.subscriptions.close_collected()
    assert not adapter.patches._originals


def test_what_is_no_agent_cannot_be_wrapped() -> None:
    with pytest.raises(ConfigurationError, match="not str"):
        kvflow_openai_agents.wrap("agent", base_urls=["http://localhost:1/v1"])


def test_agents_that_hand_over_in_circles_have_a_structure(client: AsyncOpenAI) -> None:
    a, b = apps.agent(client, "a"), apps.agent(client, "b")
    a.handoffs.append(b)
    b.handoffs.append(a)
    a.tools.append(b.as_tool("b", "b"))
    b.tools.append(a.as_tool("a", "a"))
    graph = structure_of(a)
    assert {"a", "b", "a/b"} <= set(graph.agents)
    assert graph.outlook(["a"]).steps["b"] == 1
