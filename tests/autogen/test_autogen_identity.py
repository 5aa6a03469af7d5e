"""Who calls, wherever in an agent the call is made."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import openai
import pytest
from autogen_agentchat.agents import BaseChatAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import BaseChatMessage, TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat
from autogen_core import CancellationToken
from langgraph.graph import START, StateGraph

import kvflow_autogen
import kvflow_langgraph
from tests.autogen import teams
from tests.fake_openai import FakeOpenAI, ToolCall


class Caller(BaseChatAgent):
    """An agent of somebody's own, which calls the SDK as `ask` does."""

    def __init__(self, name: str, ask: Any) -> None:
        super().__init__(name, name)
        self._ask = ask

    @property
    def produced_message_types(self) -> Sequence[type[BaseChatMessage]]:
        return (TextMessage,)

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        return Response(chat_message=TextMessage(content=await self._ask(), source=self.name))

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        pass


def ask(server: FakeOpenAI) -> str:
    with openai.OpenAI(base_url=server.base_url, api_key="key", max_retries=0) as client:
        answer = client.chat.completions.create(
            model="fake", messages=[{"role": "user", "content": "?"}]
        )
        return str(answer.choices[0].message.content)


async def in_thread_with_context(server: FakeOpenAI) -> str:
    return await asyncio.to_thread(ask, server)


async def in_task(server: FakeOpenAI) -> str:
    return await asyncio.create_task(in_thread_with_context(server))


async def at_once(server: FakeOpenAI) -> str:
    return ask(server)


@pytest.mark.parametrize("way", [in_thread_with_context, in_task, at_once])
async def test_the_plain_sdk_is_known_inside_an_agent(way: Any, instrumented: FakeOpenAI) -> None:
    agents: list[Any] = [Caller("one", lambda: way(instrumented))]
    await RoundRobinGroupChat(agents, max_turns=1).run(task="hi")
    await agents[0].run(task="hi")
    await way(instrumented)
    assert instrumented.agents == ["one", "one", None]


async def test_a_task_that_outlives_its_run_belongs_to_none(
    model: teams.Client, instrumented: FakeOpenAI
) -> None:
    is_over = asyncio.Event()
    left: list[asyncio.Task[Any]] = []

    async def later() -> None:
        await is_over.wait()
        await in_thread_with_context(instrumented)
        await teams.single(model).run(task="hi")

    async def leave_a_task() -> str:
        left.append(asyncio.create_task(later()))
        return await in_thread_with_context(instrumented)

    await Caller("one", leave_a_task).run(task="hi")
    is_over.set()
    await left[0]
    assert instrumented.agents == ["one", None, "solo"]
    assert instrumented.requests[0].workflow != instrumented.requests[2].workflow


async def test_a_thread_without_context_is_nobody_and_works(instrumented: FakeOpenAI) -> None:
    async def in_bare_thread() -> str:
        answers: list[str] = []
        thread = threading.Thread(target=lambda: answers.append(ask(instrumented)))
        thread.start()
        await asyncio.to_thread(thread.join)
        return answers[0]

    agents: list[Any] = [Caller("one", in_bare_thread)]
    result = await RoundRobinGroupChat(agents, max_turns=1).run(task="hi")
    assert result.messages[-1].to_text() == "ok"
    assert instrumented.agents == [None]


async def test_a_tool_that_calls_the_model_counts_as_its_agent(
    model: teams.Client, instrumented: FakeOpenAI
) -> None:
    async def research(question: str) -> str:
        """Research."""
        return await in_thread_with_context(instrumented)

    instrumented.script(teams.mark("boss"), ToolCall("research", {"question": "?"}), "done")
    boss = teams.agent(model, "boss", tools=[research], reflect_on_tool_use=True)
    await RoundRobinGroupChat([boss], max_turns=1).run(task="hi")
    assert instrumented.agents == ["boss", "boss", "boss"]


async def test_a_tool_that_is_no_coroutine_runs_in_a_thread_without_context(
    model: teams.Client, instrumented: FakeOpenAI
) -> None:
    def research(question: str) -> str:
        """Research."""
        return ask(instrumented)

    instrumented.script(teams.mark("boss"), ToolCall("research", {"question": "?"}), "done")
    boss = teams.agent(model, "boss", tools=[research], reflect_on_tool_use=True)
    await RoundRobinGroupChat([boss], max_turns=1).run(task="hi")
    assert instrumented.agents == ["boss", None, "boss"]


async def test_a_selector_function_that_calls_the_model_counts_as_the_manager(
    model: teams.Client, instrumented: FakeOpenAI
) -> None:
    async def select(thread: Sequence[Any]) -> str:
        await in_thread_with_context(instrumented)
        return "a"

    team = SelectorGroupChat(
        teams.agents(model, "a", "b"), model, max_turns=2, selector_func=select
    )
    await team.run(task="hi")
    assert instrumented.agents == [teams.SELECTOR, "a", teams.SELECTOR, "a"]


async def test_agents_of_one_name_in_two_teams_are_told_apart(
    model: teams.Client, instrumented: FakeOpenAI
) -> None:
    inner = [
        RoundRobinGroupChat(teams.agents(model, "writer"), max_turns=1, name=name)
        for name in ("first", "second")
    ]
    await RoundRobinGroupChat([*inner, teams.agent(model, "writer")], max_turns=3).run(task="hi")
    assert instrumented.agents == ["first/writer", "second/writer", "writer"]


@pytest.mark.parametrize("how", ["run", "run_stream", "on_messages", "on_messages_stream"])
async def test_a_single_agent_is_known_however_it_is_run(
    how: str, model: teams.Client, instrumented: FakeOpenAI
) -> None:
    agent = teams.single(model)
    arguments: Any = (
        {"task": "hi"}
        if how.startswith("run")
        else {
            "messages": [TextMessage(content="hi", source="user")],
            "cancellation_token": CancellationToken(),
        }
    )
    running = getattr(agent, how)(**arguments)
    if how.endswith("stream"):
        async for _ in running:
            # The consumer's own calls are not the agent's.
            await in_thread_with_context(instrumented)
    else:
        await running
    assert [agent for agent in instrumented.agents if agent] == ["solo"]


async def test_many_single_agents_at_once_are_told_apart(
    model: teams.Client, instrumented: FakeOpenAI
) -> None:
    instrumented.delay_s = 0.05
    members = teams.agents(model, "a", "b", "c")
    await asyncio.gather(*(agent.run(task="hi") for agent in members))
    assert sorted(map(str, instrumented.agents)) == ["a", "b", "c"]
    assert len({request.workflow for request in instrumented.requests}) == 3


@pytest.mark.parametrize("first", ["langgraph", "autogen"])
async def test_of_two_adapters_the_first_names_the_call(
    first: str, model: teams.Client, server: FakeOpenAI
) -> None:
    adapters = {"langgraph": kvflow_langgraph, "autogen": kvflow_autogen}
    order = [adapters.pop(first), *adapters.values()]

    async def chat(state: dict[str, Any]) -> dict[str, Any]:
        await teams.round_robin(model).run(task="hi")
        return {}

    graph: Any = StateGraph(dict)
    graph.add_node("chat", chat)
    graph.add_edge(START, "chat")
    for adapter in order:
        adapter.instrument(base_urls=[server.base_url])
    try:
        await graph.compile().ainvoke({})
    finally:
        for adapter in order:
            adapter.uninstrument()
    assert server.agents == (["chat"] * 6 if first == "langgraph" else ["a", "b", "c"] * 2)
