"""The prebuilt architectures, and the replies that take them through their turns."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from langgraph_supervisor import create_supervisor
from langgraph_swarm import create_handoff_tool, create_swarm

from tests.fake_openai import FakeOpenAI, ToolCall
from tests.langgraph.graphs import Graph


def look_up(question: str) -> str:
    """Look something up."""
    return f"about {question}"


LOOK_UP = ToolCall("look_up", {"question": "it"})


def with_tools(model: ChatOpenAI) -> Graph:
    return create_agent(model, [look_up], system_prompt="SOLO")


def script_with_tools(server: FakeOpenAI) -> None:
    server.script("SOLO", LOOK_UP, "done")


def supervisor(model: ChatOpenAI) -> Graph:
    math = create_agent(model, [look_up], name="math", system_prompt="MATH")
    research = create_agent(model, [], name="research", system_prompt="RESEARCH")
    return create_supervisor([math, research], model=model, prompt="BOSS").compile()


def script_supervisor(server: FakeOpenAI) -> None:
    server.script("BOSS", ToolCall("transfer_to_math"), ToolCall("transfer_to_research"), "done")
    server.script("MATH", LOOK_UP, "42")


def swarm(model: ChatOpenAI) -> Graph:
    alice = create_agent(
        model, [create_handoff_tool(agent_name="bob")], name="alice", system_prompt="ALICE"
    )
    bob = create_agent(
        model, [create_handoff_tool(agent_name="alice")], name="bob", system_prompt="BOB"
    )
    return create_swarm([alice, bob], default_active_agent="alice").compile()


def script_swarm(server: FakeOpenAI) -> None:
    server.script("ALICE", ToolCall("transfer_to_bob"))


def deep(model: ChatOpenAI) -> Graph:
    from deepagents import create_deep_agent

    def sub_agent(name: str) -> Any:
        return {
            "name": name,
            "description": name,
            "system_prompt": f"SUB {name}",
            "tools": [look_up],
        }

    return create_deep_agent(
        model=model, system_prompt="DEEP", subagents=[sub_agent("reader"), sub_agent("critic")]
    )


def script_deep(server: FakeOpenAI) -> None:
    for name in ("reader", "critic"):
        server.script(f"SUB {name}", LOOK_UP, "read")
        server.script("DEEP", ToolCall("task", {"description": "go", "subagent_type": name}))
