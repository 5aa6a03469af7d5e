"""Small agents, one tree for every pattern, and what runs them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from google.adk.agents import LlmAgent, LoopAgent, ParallelAgent, RunConfig, SequentialAgent
from google.adk.agents.run_config import StreamingMode
from google.adk.models.lite_llm import LiteLlm
from google.adk.runners import InMemoryRunner
from google.adk.tools.agent_tool import AgentTool
from google.adk.workflow import START, JoinNode, Workflow
from google.genai import types

from tests.fake_openai import FakeOpenAI, ToolCall

_numbers = itertools.count(1)


def mark(name: str) -> str:
    """What only the prompts of this agent have in them."""
    return f"SYSTEM OF {name}."


def agent(server: FakeOpenAI, name: str, **options: Any) -> LlmAgent:
    return LlmAgent(
        name=name,
        description=name,
        instruction=options.pop("instruction", mark(name)),
        model=LiteLlm("openai/fake", api_base=server.base_url, api_key="key", num_retries=0),
        **options,
    )


def agents(server: FakeOpenAI, *names: str, **options: Any) -> list[Any]:
    return [agent(server, name, **options) for name in names]


def transfer(to: str) -> ToolCall:
    return ToolCall("transfer_to_agent", {"agent_name": to})


def line(server: FakeOpenAI, names: Sequence[str]) -> SequentialAgent:
    return SequentialAgent(
        name="line", sub_agents=agents(server, *names, instruction="Go on.", mode=None)
    )


def branches(server: FakeOpenAI) -> SequentialAgent:
    """One, then two at once, then one that needs both."""
    return SequentialAgent(
        name="all",
        sub_agents=[
            agent(server, "plan"),
            ParallelAgent(name="both", sub_agents=agents(server, "left", "right")),
            agent(server, "merge"),
        ],
    )


def loop(server: FakeOpenAI) -> LoopAgent:
    return LoopAgent(name="again", sub_agents=agents(server, "write", "review"), max_iterations=2)


def desk(server: FakeOpenAI) -> LlmAgent:
    """One that hands over to two others."""
    return agent(server, "desk", sub_agents=agents(server, "travel", "history"))


def boss(server: FakeOpenAI) -> LlmAgent:
    """One with another one as its tool."""
    return agent(server, "boss", tools=[AgentTool(agent(server, "helper"))])


def graph(server: FakeOpenAI) -> Workflow:
    """The branches as a graph of nodes."""
    plan, left, right, merge = agents(server, "plan", "left", "right", "merge")
    join = JoinNode(name="join")
    return Workflow(
        name="graph",
        edges=[(START, plan), (plan, (left, right)), ((left, right), join), (join, merge)],
    )


def runner(root: Any, app: str = "app") -> InMemoryRunner:
    return InMemoryRunner(node=root, app_name=app) if isinstance(root, Workflow) else (
        InMemoryRunner(root, app_name=app)
    )  # fmt: skip


WAYS = ("async", "sync", "streaming")


async def run(
    made: InMemoryRunner,
    text: str = "hi",
    *,
    session: str | None = None,
    way: str = "async",
    user: str = "me",
) -> list[str]:
    """One run, in one of `WAYS`, in a session that may be a new one; what was answered."""
    if session is None:
        session = f"session {next(_numbers)}"
        await made.session_service.create_session(app_name="app", user_id="me", session_id=session)
    mode = StreamingMode.SSE if way == "streaming" else StreamingMode.NONE
    asked: Any = {
        "user_id": user,
        "session_id": session,
        "new_message": types.Content(role="user", parts=[types.Part(text=text)]),
        "run_config": RunConfig(streaming_mode=mode),
    }
    if way == "sync":
        events = list(made.run(**asked))
    else:
        events = [event async for event in made.run_async(**asked)]
    answers: list[str] = []
    for event in events:
        for part in (event.content.parts if event.content else None) or []:
            if part.text and not event.partial:
                answers.append(f"{event.author}: {part.text}")
    return answers
