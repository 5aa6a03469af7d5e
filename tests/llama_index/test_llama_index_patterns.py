"""For every pattern that LlamaIndex has: who calls, and who was expected."""

from __future__ import annotations

import asyncio

import pytest
from llama_index.core.workflow import Context
from workflows.errors import WorkflowCancelledByUser

from kvflow_llama_index._adapter import adapter
from tests.adapter_contract import assert_expected, assert_foreseen
from tests.adapter_fixtures import assert_as_without_us, deliver
from tests.fake_openai import FakeOpenAI, ToolCall
from tests.llama_index import workflows
from tests.llama_index.workflows import handoff, mark

streamed_or_not = pytest.mark.parametrize("streaming", [True, False])


@streamed_or_not
async def test_handoffs_are_known_before_they_are_made(
    streaming: bool, instrumented: FakeOpenAI
) -> None:
    names = ["a", "b", "c"]
    team = workflows.chain(instrumented, names, streaming=streaming)
    await team.run(user_msg=workflows.script_chain(instrumented, names))
    assert instrumented.agents == names
    assert bool(instrumented.requests[0].body.get("stream")) == streaming
    assert_foreseen(instrumented.requests)
    assert instrumented.requests[1].steps == {"a": None, "b": 0, "c": 1}


async def test_a_handoff_to_nobody_is_no_handoff(instrumented: FakeOpenAI) -> None:
    team = workflows.chain(instrumented, ["a", "b"])
    team.agents["a"].can_handoff_to = ["b", "nobody"]
    instrumented.script("hi", handoff("nobody"), handoff("b"), "done")
    result = await team.run(user_msg="hi")
    assert str(result) == "done"
    # The agent hears that there is nobody, and goes on.
    assert instrumented.agents == ["a", "a", "b"]
    assert instrumented.requests[0].steps == {"a": 0, "b": 1}


async def test_a_handoff_to_nobody_ends_as_without_us(server: FakeOpenAI) -> None:
    async def run() -> object:
        team = workflows.chain(server, ["a", "b"])
        team.agents["a"].can_handoff_to = ["b", "nobody"]
        server.script("hi", handoff("nobody"), handoff("b"), "done")
        return str(await team.run(user_msg="hi"))

    await assert_as_without_us(adapter, server, run)


async def test_without_a_list_everybody_may_take_over(instrumented: FakeOpenAI) -> None:
    team = workflows.chain(instrumented, ["a", "b", "c"])
    team.agents["a"].can_handoff_to = None
    await team.run(user_msg="hi")
    assert instrumented.requests[0].steps == {"a": 0, "b": 1, "c": 1}


async def test_steps_at_once_are_expected_before_they_call(instrumented: FakeOpenAI) -> None:
    instrumented.delay_s = 0.05
    await workflows.parallel(instrumented).run()
    calls = {request.agent: request.steps for request in instrumented.requests}
    at_once = {"left": 0, "right": 0, "merge": 1, "plan": None}
    # Events come one by one: where only the first has come, the other is on its way.
    assert calls.pop("left") in (at_once, at_once | {"right": 1, "merge": 2})
    assert calls == {
        "plan": {"plan": 0, "left": 1, "right": 1, "merge": 2},
        "right": at_once,
        "merge": {"merge": 0, "plan": None, "left": None, "right": None},
    }


async def test_agents_inside_steps_are_paths(instrumented: FakeOpenAI) -> None:
    instrumented.delay_s = 0.02
    flow = workflows.of_agents(instrumented)
    for _ in range(2):
        instrumented.clear()
        await flow.run()
    agents = instrumented.agents
    assert [agents[0], {*agents[1:3]}, *agents[3:]] == [
        "draft/writer",
        {"check/left", "check/right"},
        "finish/AgentWorkflow/first",
        "finish/AgentWorkflow/second",
    ]
    assert_expected(instrumented.requests)


@streamed_or_not
async def test_an_agent_in_a_tool_is_inside_the_one_that_uses_it(
    streaming: bool, instrumented: FakeOpenAI
) -> None:
    boss = workflows.tool_agent(instrumented, streaming=streaming)
    for _ in range(2):
        instrumented.clear()
        workflows.script_tool_agent(instrumented)
        await boss.run(user_msg="hi")
        assert instrumented.agents == ["boss", "boss/helper", "boss"]
    assert bool(instrumented.requests[0].body.get("stream")) == streaming
    assert all(request.steps["boss"] == 0 for request in instrumented.requests)
    assert_expected(instrumented.requests)  # it has been learned


async def test_several_tools_at_once_do_not_mix_their_agents(instrumented: FakeOpenAI) -> None:
    instrumented.delay_s = 0.05
    one, other = (workflows.agent(instrumented, name) for name in ("one", "other"))

    async def ask_one() -> str:
        """One."""
        return str(await one.run(user_msg="?"))

    async def ask_other() -> str:
        """Other."""
        return str(await other.run(user_msg="?"))

    async def ask_both() -> str:
        """Both, by an agent that asks two."""
        pair = workflows.agent(instrumented, "pair", tools=[ask_one, ask_other])
        instrumented.script(mark("pair"), ToolCall("ask_one"), ToolCall("ask_other"), "done")
        return str(await pair.run(user_msg="?"))

    boss = workflows.agent(instrumented, "boss", tools=[ask_both])
    instrumented.script(mark("boss"), ToolCall("ask_both"), "done")
    await boss.run(user_msg="hi")
    assert instrumented.agents == [
        "boss",
        "boss/pair",
        "boss/pair/one",
        "boss/pair",
        "boss/pair/other",
        "boss/pair",
        "boss",
    ]


async def test_a_react_agent_is_an_agent(instrumented: FakeOpenAI) -> None:
    agent = workflows.react(instrumented)
    instrumented.script(
        mark("thinker"),
        'Thought: add.\nAction: add\nAction Input: {"a": 1, "b": 2}',
        "Thought: I can answer without using any more tools.\nAnswer: 3",
    )
    # The oldest core leaves a ReAct agent's system prompt out.
    assert str(await agent.run(user_msg=f"{mark('thinker')} 1 + 2?")) == "3"
    assert instrumented.agents == ["thinker", "thinker"]


async def test_what_consumes_the_events_of_a_run_is_not_in_it(instrumented: FakeOpenAI) -> None:
    agent = workflows.agent(instrumented, "a")
    handler = agent.run(user_msg="hi")
    async for _ in handler.stream_events():
        await workflows.ask(instrumented, "me")
    await handler
    assert set(instrumented.agents) == {"a", None}
    assert instrumented.agents.count("a") == 1


async def test_a_context_goes_on_under_its_name(instrumented: FakeOpenAI) -> None:
    agent = workflows.agent(instrumented, "a")
    context = Context(agent)
    for _ in range(2):
        await agent.run(user_msg="hi", ctx=context)
    assert len({request.workflow for request in instrumented.requests}) == 1
    deliver(adapter)
    assert [end.forecast.done for end in instrumented.forecasts] == [False, False]


async def test_a_run_that_fails_or_is_cancelled_is_over(instrumented: FakeOpenAI) -> None:
    instrumented.script("hi", *([handoff("a")] * 3))
    team = workflows.chain(instrumented, ["a", "b"])
    with pytest.raises(Exception, match="Max iterations"):
        await team.run(user_msg="hi", max_iterations=2)
    deliver(adapter)
    assert [end.forecast.done for end in instrumented.forecasts] == [True]
    instrumented.clear()
    instrumented.delay_s = 1.0
    handler = team.run(user_msg="again")
    while not instrumented.requests:
        await asyncio.sleep(0.01)
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    deliver(adapter)
    assert [end.forecast.done for end in instrumented.forecasts] == [True]
