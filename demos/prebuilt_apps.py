"""Apps that others wrote: what the packages' own builders return, run as they are.

Only the model is ours. A model of 135 million parameters does not call tools, so `RoutedChat`
asks the real server and then decides the tool calls itself, by how far the conversation is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from deepagents import create_deep_agent
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.tool import tool_call
from langchain_core.outputs import ChatResult
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph_supervisor import create_supervisor
from langgraph_swarm import create_handoff_tool, create_swarm

from demos.team import RULES

Route = tuple[str, dict[str, str]]


class RoutedChat(ChatOpenAI):
    """Answers as the server does; `routes` says which tools each agent calls, one after another.

    An agent is recognised by the first word of its system prompt.
    """

    routes: dict[str, list[Route]] = {}

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return self._route(messages, super()._generate(messages, *args, **kwargs))

    async def _agenerate(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> ChatResult:
        return self._route(messages, await super()._agenerate(messages, *args, **kwargs))

    def _route(self, messages: Sequence[BaseMessage], result: ChatResult) -> ChatResult:
        routes = self.routes.get(messages[0].text.split(" ", 1)[0], [])
        names = {name for name, _ in routes}
        taken = sum(
            call["name"] in names
            for message in messages
            if isinstance(message, AIMessage)
            for call in message.tool_calls
        )
        message = result.generations[0].message
        if taken < len(routes) and isinstance(message, AIMessage):
            name, arguments = routes[taken]
            call_id = f"{name}-{len(messages)}"
            message.tool_calls = [tool_call(name=name, args=arguments, id=call_id)]
        return result


@tool
def look_up(subject: str) -> str:
    """Look a subject up in the encyclopedia."""
    return f"The encyclopedia has a short entry on {subject}."


LOOK_UP: Route = ("look_up", {"subject": "lighthouses"})


def prompt(agent: str, words: int) -> str:
    """A long system prompt that begins with the agent's name."""
    sentences = [f"{agent} works in a team of agents and answers for its own part."]
    while sum(len(sentence.split()) for sentence in sentences) < words:
        rule = RULES[len(sentences) % len(RULES)]
        sentences.append(f"{agent} keeps rule {len(sentences)}: {rule}")
    return " ".join(sentences)


def tool_agent(model: RoutedChat, words: int) -> Any:
    """LangChain's `create_agent` with a tool."""
    model.routes = {"Reader": [LOOK_UP, LOOK_UP]}
    return create_agent(model, [look_up], system_prompt=prompt("Reader", words))


def supervisor(model: RoutedChat, words: int) -> Any:
    """langgraph-supervisor: a chief who sends for two agents in turn."""
    model.routes = {
        "Chief": [("transfer_to_analyst", {}), ("transfer_to_author", {})],
        "Analyst": [LOOK_UP],
    }
    analyst = create_agent(model, [look_up], name="analyst", system_prompt=prompt("Analyst", words))
    author = create_agent(model, [], name="author", system_prompt=prompt("Author", words))
    return create_supervisor(
        [analyst, author], model=model, prompt=prompt("Chief", words)
    ).compile()


def swarm(model: RoutedChat, words: int) -> Any:
    """langgraph-swarm: two agents that hand over to each other."""
    model.routes = {
        "Alice": [("transfer_to_bob", {})],
        "Bob": [("transfer_to_alice", {})],
    }

    def member(name: str, other: str) -> Any:
        tools = [create_handoff_tool(agent_name=other)]
        return create_agent(model, tools, name=name, system_prompt=prompt(name.title(), words))

    members = [member("alice", "bob"), member("bob", "alice")]
    return create_swarm(members, default_active_agent="alice").compile()


def deep_agent(model: RoutedChat, words: int) -> Any:
    """deepagents: an agent that gives tasks to two sub-agents."""
    task = "Read about lighthouses."
    model.routes = {
        "Leader": [
            ("task", {"description": task, "subagent_type": "scout"}),
            ("task", {"description": task, "subagent_type": "judge"}),
        ],
        "Scout": [LOOK_UP],
    }

    def sub_agent(name: str) -> Any:
        return {
            "name": name,
            "description": f"the {name}",
            "system_prompt": prompt(name.title(), words),
            "tools": [look_up],
        }

    return create_deep_agent(
        model=model,
        system_prompt=prompt("Leader", words),
        subagents=[sub_agent("scout"), sub_agent("judge")],
    )


BUILDERS: dict[str, Callable[[RoutedChat, int], Any]] = {
    "create_agent": tool_agent,
    "supervisor": supervisor,
    "swarm": swarm,
    "deepagents": deep_agent,
}

# How many times one run of each asks the model.
CALLS = {"create_agent": 3, "supervisor": 6, "swarm": 3, "deepagents": 6}
