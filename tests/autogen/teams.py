"""Small teams, one for every kind that AutoGen has, and the replies that take them through."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from autogen_agentchat.agents import (
    AssistantAgent,
    BaseChatAgent,
    MessageFilterAgent,
    MessageFilterConfig,
    PerSourceFilter,
    SocietyOfMindAgent,
)
from autogen_agentchat.base import Handoff, Response
from autogen_agentchat.conditions import MaxMessageTermination, TextMentionTermination
from autogen_agentchat.messages import BaseChatMessage, TextMessage
from autogen_agentchat.teams import (
    BaseGroupChat,
    DiGraphBuilder,
    GraphFlow,
    MagenticOneGroupChat,
    RoundRobinGroupChat,
    SelectorGroupChat,
    Swarm,
)
from autogen_agentchat.teams._group_chat._round_robin_group_chat import (
    RoundRobinGroupChatManager,
)
from autogen_agentchat.tools import AgentTool, TeamTool
from autogen_core import CancellationToken
from autogen_core.models import ModelFamily, ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient

from tests.fake_openai import FakeOpenAI, ToolCall

Team = Any


class Client(OpenAIChatCompletionClient):
    """A model whose agents take its answers whole, or bit by bit."""

    streams = False


MODEL_INFO = ModelInfo(
    vision=False,
    function_calling=True,
    json_output=True,
    family=ModelFamily.GPT_4O,
    structured_output=False,
    multiple_system_messages=True,
)
SELECTOR = "SelectorGroupChatManager"
MAGENTIC = "MagenticOneOrchestrator"


def client(server: FakeOpenAI, **options: Any) -> Client:
    return Client(
        model="fake",
        base_url=server.base_url,
        api_key="key",
        model_info=MODEL_INFO,
        max_retries=0,
        **options,
    )


def mark(name: str) -> str:
    """What only the prompts of this agent have in them."""
    return f"SYSTEM OF {name}."


def agent(model: Client, name: str, **options: Any) -> AssistantAgent:
    return AssistantAgent(
        name,
        model,
        system_message=mark(name),
        description=name,
        model_client_stream=model.streams,
        **options,
    )


def agents(model: Client, *names: str, **options: Any) -> list[Any]:
    return [agent(model, name, **options) for name in names]


def round_robin(model: Client) -> Team:
    return RoundRobinGroupChat(agents(model, "a", "b", "c"), max_turns=6)


def selector(model: Client) -> Team:
    return SelectorGroupChat(agents(model, "a", "b", "c"), model, max_turns=4)


def script_selector(server: FakeOpenAI) -> None:
    server.script("role play game", "a", "nobody", "b", "c", "a")


def selector_function(model: Client) -> Team:
    """Code chooses, but for the second turn, which it leaves to the model."""
    choices = iter(["a", None, "a", "c"])
    return SelectorGroupChat(
        agents(model, "a", "b", "c"),
        model,
        max_turns=4,
        selector_func=lambda thread: next(choices),
    )


def script_selector_function(server: FakeOpenAI) -> None:
    server.script("role play game", "b")


def candidate_function(model: Client) -> Team:
    """Code leaves one candidate, then two."""
    candidates = iter([["b"], ["a", "c"], ["b"]])
    return SelectorGroupChat(
        agents(model, "a", "b", "c"),
        model,
        max_turns=3,
        candidate_func=lambda thread: next(candidates),
    )


def script_candidate_function(server: FakeOpenAI) -> None:
    server.script("role play game", "c")


def pair(model: Client) -> Team:
    """Two who may not repeat themselves: after the first turn there is nothing to select."""
    return SelectorGroupChat(agents(model, "a", "b"), model, max_turns=4)


def script_pair(server: FakeOpenAI) -> None:
    server.script("role play game", "b")


def swarm(model: Client) -> Team:
    def member(name: str, *targets: str) -> AssistantAgent:
        return agent(model, name, handoffs=[Handoff(target=target) for target in targets])

    return Swarm(
        [member("a", "b"), member("b", "c", "a"), member("c")],
        termination_condition=MaxMessageTermination(9),
    )


def script_swarm(server: FakeOpenAI) -> None:
    server.script(mark("a"), ToolCall("transfer_to_b"))
    server.script(mark("b"), "thinking", ToolCall("transfer_to_c"))


def flow_and(model: Client) -> Team:
    """`d` waits for both branches, one of which is longer."""
    a, b, c, c2, d = members = agents(model, "a", "b", "c", "c2", "d")
    builder = DiGraphBuilder()
    for member in members:
        builder.add_node(member)
    builder.add_edge(a, b).add_edge(a, c).add_edge(c, c2)
    builder.add_edge(b, d).add_edge(c2, d)
    return GraphFlow(members, builder.build())


def flow_any(model: Client) -> Team:
    """`d` runs as soon as one branch has."""
    a, b, c, c2, d = members = agents(model, "a", "b", "c", "c2", "d")
    builder = DiGraphBuilder()
    builder.add_node(a)
    for member in (b, c, c2):
        builder.add_node(member)
    builder.add_node(d, activation="any")
    builder.add_edge(a, b).add_edge(a, c).add_edge(c, c2)
    builder.add_edge(b, d, activation_condition="any")
    builder.add_edge(c2, d, activation_condition="any")
    return GraphFlow(members, builder.build(), max_turns=8)


def flow_loop(model: Client) -> Team:
    """A writer and a reviewer, until the reviewer approves; then a publisher."""
    writer, reviewer, publisher = members = agents(model, "writer", "reviewer", "publisher")
    builder = DiGraphBuilder()
    for member in members:
        builder.add_node(member)
    builder.add_edge(writer, reviewer, activation_group="review")
    builder.add_edge(reviewer, writer, condition="AGAIN", activation_group="again")
    builder.add_edge(reviewer, publisher, condition="APPROVED")
    builder.set_entry_point(writer)
    return GraphFlow(members, builder.build(), max_turns=9)


def script_flow_loop(server: FakeOpenAI) -> None:
    server.script(mark("reviewer"), "AGAIN", "APPROVED")


def magentic(model: Client) -> Team:
    return MagenticOneGroupChat(agents(model, "a", "b"), model, max_turns=5)


def ledger(speaker: str, *, is_done: bool = False) -> str:
    answers = {
        "is_request_satisfied": is_done,
        "is_progress_being_made": True,
        "is_in_loop": False,
        "instruction_or_question": "go on",
        "next_speaker": speaker,
    }
    return json.dumps({name: {"reason": "x", "answer": it} for name, it in answers.items()})


def script_magentic(server: FakeOpenAI) -> None:
    speakers = [ledger("a"), ledger("b"), ledger("a", is_done=True)]
    server.script("Recall we are working on", *speakers)


def society(model: Client) -> Team:
    inner = RoundRobinGroupChat(agents(model, "a", "b"), max_turns=2)
    return RoundRobinGroupChat(
        [SocietyOfMindAgent("society", inner, model), agent(model, "last")], max_turns=4
    )


def nested(model: Client) -> Team:
    inner = RoundRobinGroupChat(agents(model, "x", "y"), max_turns=2, name="pair")
    middle = RoundRobinGroupChat([agent(model, "writer"), inner], max_turns=2, name="team")
    return RoundRobinGroupChat(
        [agent(model, "plan"), middle, agent(model, "check")], max_turns=3, name="outer"
    )


def agent_tool(model: Client) -> Team:
    helper = agent(model, "helper")
    boss = agent(model, "boss", tools=[AgentTool(helper)], max_tool_iterations=3)
    return RoundRobinGroupChat([boss, agent(model, "last")], max_turns=2)


def script_agent_tool(server: FakeOpenAI) -> None:
    server.script(mark("boss"), ToolCall("helper", {"task": "help"}), "done")


def team_tool(model: Client) -> Team:
    inner = RoundRobinGroupChat(agents(model, "x", "y"), max_turns=2, name="pair")
    tool = TeamTool(inner, name="ask_pair", description="asks a pair")
    return agent(model, "boss", tools=[tool], max_tool_iterations=3)


def script_team_tool(server: FakeOpenAI) -> None:
    server.script(mark("boss"), ToolCall("ask_pair", {"task": "help"}), "done")


def single(model: Client) -> Team:
    return agent(model, "solo")


def filtered(model: Client) -> Team:
    """A participant that stands for an agent of another name."""
    rule = MessageFilterConfig(per_source=[PerSourceFilter(source="user")])
    inner = agent(model, "inner")
    return RoundRobinGroupChat(
        [agent(model, "a"), MessageFilterAgent("outer", inner, rule)], max_turns=2
    )


class Duet(BaseChatAgent):
    """An agent of somebody's own, which asks two others."""

    def __init__(self, name: str, parts: Sequence[AssistantAgent]) -> None:
        super().__init__(name, name)
        self._parts = parts

    @property
    def produced_message_types(self) -> Sequence[type[BaseChatMessage]]:
        return (TextMessage,)

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        for part in self._parts:
            await part.on_messages(messages, cancellation_token)
        return Response(chat_message=TextMessage(content="sung", source=self.name))

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        pass


def custom(model: Client) -> Team:
    duet = Duet("duet", agents(model, "first", "second"))
    return RoundRobinGroupChat([duet, agent(model, "last")], max_turns=2)


def approved(model: Client) -> Team:
    """Two who go on until one of them approves."""
    return RoundRobinGroupChat(
        agents(model, "a", "b"), termination_condition=TextMentionTermination("APPROVE")
    )


class LotteryManager(RoundRobinGroupChatManager):
    """Draws from a list that nobody sees."""

    draws = ("c", "a", "c", "b")

    async def select_speaker(self, thread: Sequence[Any]) -> str:
        return self.draws[self._current_turn]


class Lottery(BaseGroupChat):
    """A team of somebody's own."""

    def __init__(self, members: list[Any]) -> None:
        super().__init__("lottery", "", members, "LotteryManager", LotteryManager, max_turns=4)

    def _create_group_chat_manager_factory(self, *args: Any, **options: Any) -> Any:
        options["emit_team_events"] = False
        return lambda: LotteryManager(*args, **options)


def lottery(model: Client) -> Team:
    return Lottery(agents(model, "a", "b", "c"))
