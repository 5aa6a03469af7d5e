"""The patterns of Agent Framework's documentation: who calls, and who was expected to."""

from __future__ import annotations

import gc
from typing import Any

import openai
import pytest
from agent_framework import (
    AgentSession,
    Case,
    Default,
    Executor,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowExecutor,
    handler,
)
from agent_framework_orchestrations import (
    ConcurrentBuilder,
    GroupChatBuilder,
    HandoffBuilder,
    SequentialBuilder,
)
from openai import AsyncOpenAI

import kvflow_agent_framework
from kvflow_agent_framework._adapter import adapter
from kvflow_agents import ConfigurationError
from tests.adapter_contract import assert_foreseen
from tests.adapter_fixtures import assert_as_without_us, deliver
from tests.agent_framework import flows
from tests.fake_openai import FakeOpenAI, ToolCall


def done(server: FakeOpenAI) -> list[bool]:
    deliver(adapter)
    return [end.forecast.done for end in server.forecasts]


streamed_or_not = pytest.mark.parametrize("streaming", [True, False])


@streamed_or_not
async def test_a_sequence_is_known_before_its_first_run(
    streaming: bool, client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    agents: Any = [flows.agent(client, name) for name in ("outline", "draft", "check")]
    await flows.run(SequentialBuilder(participants=agents).build(), "hi", streaming=streaming)
    assert bool(instrumented.requests[0].body.get("stream")) == streaming
    assert instrumented.agents == ["outline", "draft", "check"]
    assert_foreseen(instrumented.requests)


@streamed_or_not
async def test_agents_at_once_are_planned_before_any_of_them_calls(
    streaming: bool, client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    instrumented.delay_s = 0.05
    agents: Any = [flows.agent(client, name) for name in ("x", "y", "z")]
    await flows.run(ConcurrentBuilder(participants=agents).build(), "hi", streaming=streaming)
    assert sorted(map(str, instrumented.agents)) == ["x", "y", "z"]
    for request in instrumented.requests:
        assert [request.steps[name] for name in "xyz"] == [0, 0, 0]


async def test_who_waits_for_all_is_behind_the_last(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    a, b, c, join = (flows.agent(client, name) for name in ("a", "b", "c", "join"))

    class Sum(Executor):
        @handler
        async def add(self, answers: list[Any], context: WorkflowContext[str]) -> None:
            await context.send_message("all of it")

    instrumented.delay_s = 0.05
    total = Sum(id="sum")
    builder = WorkflowBuilder(start_executor=a)
    builder = builder.add_fan_out_edges(a, [b, c]).add_fan_in_edges([b, c], total)
    await builder.add_edge(total, join).build().run("hi")
    first = instrumented.requests[0]
    assert first.steps == {"a": 0, "b": 1, "c": 1, "sum": 2, "join": 3}
    assert [instrumented.requests[1].steps[name] for name in ("b", "c", "sum")] == [0, 0, 1]
    assert instrumented.agents[-1] == "join"


async def test_of_a_choice_all_are_expected_next(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    a, b, c = (flows.agent(client, name) for name in "abc")
    cases: Any = [Case(condition=lambda _: False, target=b), Default(target=c)]
    flow = WorkflowBuilder(start_executor=a).add_switch_case_edge_group(a, cases).build()
    await flow.run("hi")
    assert instrumented.agents == ["a", "c"]
    assert instrumented.requests[0].steps == {"a": 0, "b": 1, "c": 1}
    assert instrumented.requests[1].steps["c"] == 0


async def test_in_a_group_chat_only_who_is_asked_is_planned(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    agents: Any = [flows.agent(client, name) for name in ("x", "y")]
    turns = iter(["x", "y", "x"])
    chat = GroupChatBuilder(
        participants=agents, selection_func=lambda state: next(turns), max_rounds=3
    ).build()
    await chat.run("hi")
    assert instrumented.agents == ["x", "y", "x"]
    assert [request.steps["x"] == 0 for request in instrumented.requests] == [True, False, True]
    assert all(request.steps["x"] is not None for request in instrumented.requests)


@streamed_or_not
async def test_a_handoff_is_expected_next(
    streaming: bool, client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    options: dict[str, Any] = {"require_per_service_call_history_persistence": True}
    triage = flows.agent(client, "triage", instructions="You sort.", **options)
    french, spanish = (flows.agent(client, name, **options) for name in ("french", "spanish"))
    builder = HandoffBuilder(participants=[triage, french, spanish]).with_start_agent(triage)
    flow = builder.add_handoff(triage, [french, spanish]).build()
    instrumented.script("You sort", ToolCall("handoff_to_spanish"))
    await flows.run(flow, "hola", streaming=streaming)
    assert instrumented.agents == ["triage", "spanish"]
    assert instrumented.requests[0].steps == {"triage": 0, "french": 1, "spanish": 1}


async def test_a_handoff_to_nobody_goes_as_without_us(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    options: dict[str, Any] = {"require_per_service_call_history_persistence": True}
    triage = flows.agent(client, "triage", instructions="You sort.", **options)
    other = flows.agent(client, "other", **options)
    flow = HandoffBuilder(participants=[triage, other]).with_start_agent(triage).build()
    instrumented.script("You sort", ToolCall("handoff_to_nobody"), "nobody is there")
    await flow.run("hola")
    assert instrumented.agents == ["triage", "triage"]
    assert len(adapter.observer._runs) == 0


async def test_a_handoff_to_nobody_ends_as_without_us(
    client: AsyncOpenAI, server: FakeOpenAI
) -> None:
    async def run() -> object:
        options: dict[str, Any] = {"require_per_service_call_history_persistence": True}
        triage = flows.agent(client, "triage", instructions="You sort.", **options)
        other = flows.agent(client, "other", **options)
        flow = HandoffBuilder(participants=[triage, other]).with_start_agent(triage).build()
        server.script("You sort", ToolCall("handoff_to_nobody"), "nobody is there")
        events = await flow.run("hola")
        return [type(event).__name__ for event in events]

    await assert_as_without_us(adapter, server, run)


async def test_a_workflow_inside_another_is_known_by_its_path(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    first = flows.agent(client, "first")
    inner = WorkflowExecutor(flows.chain(client, ["x", "y"]), id="team")

    class Forward(Executor):
        @handler
        async def pass_on(self, answer: Any, context: WorkflowContext[str]) -> None:
            await context.send_message("go on")

    middle = Forward(id="middle")
    flow = WorkflowBuilder(start_executor=first).add_edge(first, middle).add_edge(middle, inner)
    await flow.build().run("hi")
    assert instrumented.agents == ["first", "team/x", "team/y"]
    assert instrumented.requests[0].steps == {"first": 0, "middle": 1, "team/x": 2, "team/y": 3}
    assert instrumented.requests[1].steps["team/y"] == 1
    assert len({request.workflow for request in instrumented.requests}) == 1


@streamed_or_not
async def test_an_agent_as_a_tool_is_inside_the_one_that_uses_it(
    streaming: bool, client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    helper = flows.agent(client, "helper")
    boss = flows.agent(client, "boss", instructions="You lead.", tools=[helper.as_tool()])
    for _ in range(2):
        instrumented.clear()
        instrumented.script("You lead", ToolCall("helper", {"task": "well?"}), "done")
        await flows.run(boss, "hi", streaming=streaming)
    assert instrumented.agents == ["boss", "boss/helper", "boss"]
    assert instrumented.requests[0].steps["boss/helper"] == 1
    assert instrumented.requests[1].steps["boss/helper"] == 0


async def test_an_agent_by_itself_is_a_run_of_its_own(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    single = flows.agent(client, "single")
    result = await single.run("hi")
    assert instrumented.agents == ["single"]
    assert done(instrumented) == [False]
    assert result.text == "ok"
    del result
    assert done(instrumented) == [False, True]


async def test_a_session_is_a_workflow_that_goes_on(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    single, session = flows.agent(client, "single"), AgentSession(session_id="ticket-7")
    for _ in range(2):
        await single.run("hi", session=session)
    [name] = {request.workflow for request in instrumented.requests}
    assert name is not None and name.startswith("ticket-7@")
    assert done(instrumented) == [False, False]


async def test_streams_are_hinted_like_any_run(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    stream = flows.agent(client, "single").run("hi", stream=True)
    async for _ in stream:
        pass
    events = flows.chain(client, ["a", "b"]).run("hi", stream=True)
    async for _ in events:
        pass
    assert instrumented.agents == ["single", "a", "b"]
    assert all(request.body.get("stream") for request in instrumented.requests)
    assert_foreseen(instrumented.requests[1:])
    assert len(adapter.observer._runs) == 0
    del stream, events
    assert any(done(instrumented))


async def test_what_a_stream_s_consumer_asks_is_its_own(
    client: AsyncOpenAI, instrumented: FakeOpenAI
) -> None:
    other = flows.agent(client, "other")
    async for _ in flows.agent(client, "single").run("hi", stream=True):
        await other.run("beside it")
        break
    assert instrumented.agents == ["single", "other"]


async def test_a_run_that_fails_ends(client: AsyncOpenAI, instrumented: FakeOpenAI) -> None:
    flow = flows.chain(client, ["a", "b"])
    instrumented.stop()
    with pytest.raises(Exception) as caught:
        await flow.run("hi")
    assert "onnection" in str(caught.value) or isinstance(caught.value, openai.OpenAIError)
    assert len(adapter.observer._runs) == 0


async def test_only_what_is_wrapped_is_hinted(client: AsyncOpenAI, server: FakeOpenAI) -> None:
    wrapped: Workflow | None = flows.chain(client, ["a"])
    kvflow_agent_framework.wrap(wrapped, base_urls=[server.base_url])
    assert wrapped is not None
    await wrapped.run("hi")
    await flows.chain(client, ["a"]).run("hi")
    assert server.agents == ["a", None]
    del wrapped
    gc.collect()
    adapter.subscriptions.close_collected()
    assert not adapter.patches._originals


def test_what_is_neither_cannot_be_wrapped() -> None:
    with pytest.raises(ConfigurationError, match="not str"):
        kvflow_agent_framework.wrap("flow", base_urls=["http://localhost:1/v1"])
