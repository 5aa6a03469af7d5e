"""Twenty agents in a line, or as close to it as a framework comes: one application for each.

A framework is imported where it is used, for no environment holds them all.
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from types import SimpleNamespace
from typing import Annotated, Any, TypedDict

import openai

Run = Callable[[], object]
"""Runs an application once."""


class _State(TypedDict, total=False):
    count: Annotated[int, lambda old, new: new]


def langgraph(base_url: str, names: Sequence[str]) -> Run:
    """A graph."""
    from langgraph.graph import START, StateGraph

    client = openai.OpenAI(base_url=base_url, api_key="key")

    def agent(state: _State) -> _State:
        client.chat.completions.create(model="stub", messages=[{"role": "user", "content": "hi"}])
        return {"count": state.get("count", 0) + 1}

    graph = StateGraph(_State)
    for name in names:
        graph.add_node(name, agent)
    for before, after in zip([START, *names], names, strict=False):
        graph.add_edge(before, after)
    app: Any = graph.compile()
    return lambda: app.invoke({})


def autogen(base_url: str, names: Sequence[str]) -> Run:
    """A team; a new one each time, for the history of one that goes on would grow."""
    from autogen_agentchat.agents import AssistantAgent
    from autogen_agentchat.teams import RoundRobinGroupChat
    from autogen_core.models import ModelFamily, ModelInfo
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    info = ModelInfo(
        vision=False,
        function_calling=False,
        json_output=False,
        family=ModelFamily.GPT_4O,
        structured_output=False,
    )
    client = OpenAIChatCompletionClient(
        model="stub", base_url=base_url, api_key="key", model_info=info
    )

    async def run() -> None:
        members: list[Any] = [AssistantAgent(name, client) for name in names]
        await RoundRobinGroupChat(members, max_turns=len(names)).run(task="hi")

    return _in_one_loop(run)


def openai_agents(base_url: str, names: Sequence[str]) -> Run:
    """Runs in one trace."""
    import agents
    from agents.tracing import set_trace_processors

    set_trace_processors([])  # traces are sent nowhere
    client = openai.AsyncOpenAI(base_url=base_url, api_key="key")
    model = agents.OpenAIChatCompletionsModel(model="stub", openai_client=client)
    members: list[Any] = [agents.Agent(name, model=model) for name in names]

    async def run() -> None:
        with agents.trace("line"):
            for member in members:
                await agents.Runner.run(member, "hi")

    return _in_one_loop(run)


def pydantic_ai(base_url: str, names: Sequence[str]) -> Run:
    """What a tool of one agent asks, which calls once more than the line is long."""
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    client = openai.AsyncOpenAI(base_url=base_url, api_key="key")
    model = OpenAIChatModel("stub", provider=OpenAIProvider(openai_client=client))
    members = [Agent(model, name=name) for name in names]
    boss = Agent(model, name="boss")

    @boss.tool_plain
    async def ask_all() -> str:
        for member in members:
            await member.run("hi")
        return "done"

    return _in_one_loop(lambda: boss.run("hi"))


def agent_framework(base_url: str, names: Sequence[str]) -> Run:
    """A workflow; a new one each time, for the history of one that goes on would grow."""
    from agent_framework import Agent, WorkflowBuilder
    from agent_framework_openai import OpenAIChatCompletionClient

    client = openai.AsyncOpenAI(base_url=base_url, api_key="key")
    chat: Any = OpenAIChatCompletionClient(model="stub", async_client=client)

    async def run() -> None:
        members: list[Any] = [Agent(chat, name=name) for name in names]
        builder = WorkflowBuilder(start_executor=members[0])
        for before, after in zip(members, members[1:], strict=False):
            builder = builder.add_edge(before, after)
        await builder.build().run("hi")

    return _in_one_loop(run)


def crewai(base_url: str, names: Sequence[str]) -> Run:
    """A crew; nothing of it calls home."""
    import os

    os.environ |= {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_DISABLE_TRACKING": "true"}
    os.environ |= {"CREWAI_TRACING_ENABLED": "false", "OTEL_SDK_DISABLED": "true"}
    from tests.crewai import crews

    crew = crews.line(_server(base_url), names)
    return lambda: crew.kickoff()


def google_adk(base_url: str, names: Sequence[str]) -> Run:
    """A sequence of agents, in a new session each time."""
    import os

    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    from tests.google_adk import trees

    litellm.disable_aiohttp_transport = True  # what answers is in httpx
    runner = trees.runner(trees.line(_server(base_url), names))
    return _in_one_loop(lambda: trees.run(runner))


def llama_index(base_url: str, names: Sequence[str]) -> Run:
    """A workflow of steps that share a model, which keeps its client as it does by default."""
    from tests.llama_index import workflows

    server = _server(base_url)
    line = workflows.line(server, names, workflows.model(server, reuse_client=True))

    async def run() -> None:
        await line.run()

    return _in_one_loop(run)


LINES: Mapping[str, Callable[[str, Sequence[str]], Run]] = {
    "langgraph": langgraph,
    "autogen": autogen,
    "openai-agents": openai_agents,
    "pydantic-ai": pydantic_ai,
    "agent-framework": agent_framework,
    "crewai": crewai,
    "google-adk": google_adk,
    "llama-index": llama_index,
}


def _in_one_loop(run: Callable[[], Any]) -> Run:
    runner = asyncio.Runner()
    # Else what LiteLLM leaves in the loop crashes Python 3.11 at its end.
    atexit.register(runner.close)

    async def run_once() -> None:
        await run()

    return lambda: runner.run(run_once(), context=copy_context())


def _server(base_url: str) -> Any:
    """What the applications of the tests need of theirs."""
    return SimpleNamespace(base_url=base_url)
