"""AutoGen teams against stock SGLang and against kvflow, side by side.

    .venv/bin/python demos/chat_team.py [--model tiny]

`./scripts/demo` has to have run once: it sets up what this needs. Two kinds of team, each for
several clients at once, whose prompts differ: a `SelectorGroupChat` whose manager asks the model
who speaks next, and a `GraphFlow` with parallel branches, a join and a loop.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import typer
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.messages import BaseChatMessage
from autogen_agentchat.teams import DiGraphBuilder, GraphFlow, SelectorGroupChat
from autogen_core.model_context import BufferedChatCompletionContext
from autogen_core.models import CreateResult, ModelFamily, ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient

import kvflow_autogen
from demos.comparison import Endpoint, command
from demos.http_recorder import recording_client
from demos.measure import CallLog
from demos.team import RESEARCHERS, handbook
from demos.workloads import QUESTIONS

INFO = ModelInfo(
    vision=False,
    function_calling=False,
    json_output=False,
    family=ModelFamily.UNKNOWN,
    structured_output=False,
    multiple_system_messages=False,
)
# In no order that a client would guess, and not a round robin.
SPEAKERS = ("planner", "writer", "critic", "writer", "critic", "lawyer", "translator", "editor")
FLOW = ("planner", *RESEARCHERS, "writer", "critic", "editor")


class Chairman(OpenAIChatCompletionClient):
    """The manager's model: it is asked, but a model this small does not decide who speaks."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._speakers = cycle(SPEAKERS)

    async def create(self, *args: Any, **kwargs: Any) -> CreateResult:
        result = await super().create(*args, **kwargs)
        return result.model_copy(update={"content": next(self._speakers)})


@dataclass(frozen=True, slots=True)
class Cast:
    """Makes the agents of one client's team; their calls are logged."""

    client: str
    endpoint: Endpoint
    words: int
    log: CallLog

    def model(self, agent: str, kind: type[Any] = OpenAIChatCompletionClient) -> Any:
        return kind(
            model=self.endpoint.model,
            base_url=f"{self.endpoint.base_url}/v1",
            api_key=self.endpoint.api_key,
            model_info=INFO,
            temperature=0,
            max_tokens=self.endpoint.answer_tokens,
            http_client=recording_client(self.client, agent, self.log),
        )

    def agent(self, role: str, **options: Any) -> AssistantAgent:
        return AssistantAgent(
            role,
            self.model(role),
            description=f"the {role}",
            system_message=handbook(role, self.client, self.words),
            **options,
        )


def selector_team(cast: Cast, rounds: int) -> SelectorGroupChat:
    """Six agents who hear all that is said; the manager is asked before every turn."""
    members: list[Any] = [cast.agent(role) for role in dict.fromkeys(SPEAKERS)]
    chairman = cast.model("SelectorGroupChatManager", Chairman)
    return SelectorGroupChat(members, chairman, max_turns=rounds * len(SPEAKERS))


def flow_team(cast: Cast, rounds: int) -> GraphFlow:
    """A planner, three researchers at once, a writer, a critic, an editor; so many rounds.

    Everyone hears the last message only.
    """
    members = {
        role: cast.agent(role, model_context=BufferedChatCompletionContext(buffer_size=1))
        for role in FLOW
    }
    edited = 0

    def goes_on(message: BaseChatMessage) -> bool:
        return edited < rounds

    def counts(message: BaseChatMessage) -> bool:
        nonlocal edited
        edited += 1
        return True

    builder = DiGraphBuilder()
    for member in members.values():
        builder.add_node(member)
    archivist = cast.agent("archivist")
    builder.add_node(archivist)
    planner, writer, critic, editor = (
        members[role] for role in ("planner", "writer", "critic", "editor")
    )
    for role in RESEARCHERS:
        builder.add_edge(planner, members[role])
        builder.add_edge(members[role], writer)
    builder.add_edge(writer, critic)
    builder.add_edge(critic, editor, condition=counts)
    builder.add_edge(editor, planner, condition=goes_on, activation_group="again")
    builder.add_edge(editor, archivist, condition=lambda message: not goes_on(message))
    builder.set_entry_point(planner)
    return GraphFlow([*members.values(), archivist], builder.build(), max_turns=10 * rounds)


@dataclass(frozen=True, slots=True)
class Chats:
    """Teams of several clients at once, each a few calls behind the one before."""

    name: str
    build: Callable[[Cast, int], Any]
    clients: int
    rounds: int
    words: int
    calls_of_client: int
    lag_calls: int = 5

    @property
    def calls(self) -> int:
        return self.clients * self.calls_of_client

    def run(self, endpoint: Endpoint, *, hinted: bool, on_call: Callable[[], None]) -> CallLog:
        """Run all conversations, with hints or without; blocks until the last has ended."""
        log = CallLog(on_call=on_call)
        if hinted:
            kvflow_autogen.instrument(base_urls=[endpoint.base_url])  # the one line
        try:
            asyncio.run(self._run_together(endpoint, log))
        finally:
            kvflow_autogen.uninstrument()
        return log

    async def _run_together(self, endpoint: Endpoint, log: CallLog) -> None:
        async def converse(number: int) -> None:
            while len(log.calls) < number * self.lag_calls:
                await asyncio.sleep(0.01)
            cast = Cast(f"Client {number}", endpoint, self.words, log)
            await self.build(cast, self.rounds).run(task=QUESTIONS[number % len(QUESTIONS)])

        await asyncio.gather(*(converse(number) for number in range(self.clients)))


@dataclass(frozen=True, slots=True)
class Scale:
    """A pool for about half of the prompts, and prompts in words."""

    pool_tokens: int
    answer_tokens: int
    words: int

    def workloads(self, host_tier: bool) -> Sequence[Chats]:
        """Nothing is added by the host tier that the research team does not show."""
        if host_tier:
            return ()
        rounds = 3
        flow_calls = rounds * len(FLOW) + 1
        return (
            Chats("selector", selector_team, 2, 2, self.words, 2 * 2 * len(SPEAKERS)),
            Chats("graph flow", flow_team, 2, rounds, self.words, flow_calls),
        )


def scale_of(model: str) -> Scale:
    """A word is 1.3 tokens, of the tiny model 5.5."""
    if model == "tiny" or model.endswith("/tiny"):
        return Scale(pool_tokens=16_000, answer_tokens=4, words=340)
    return Scale(pool_tokens=3_500, answer_tokens=4, words=280)


if __name__ == "__main__":
    # AutoGen logs every answer, and SGLang's have metadata that the SDK declares otherwise.
    warnings.filterwarnings("ignore", message="Pydantic serializer warnings")
    typer.run(command(scale_of, "Run AutoGen teams against stock SGLang and kvflow, and compare."))
