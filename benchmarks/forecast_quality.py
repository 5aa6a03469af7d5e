"""How good the forecasts of AutoGen teams are, call by call.

    python benchmarks/forecast_quality.py [--runs 40] [--json FILE]

Each kind of team is run against a model that answers inside the process and chooses speakers by
chance, some more often than others. A forecast is compared with what then happened: did it expect
the agents of the next step next, and was it exact, early or late about every agent that called
again? Beside it, what is told by always expecting whoever has followed most often, counted
afterwards over the very same calls. Those are switches; an agent that calls twice in a row is
counted apart, as a repeat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from autogen_agentchat.agents import AssistantAgent, SocietyOfMindAgent
from autogen_agentchat.base import Handoff
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import (
    DiGraphBuilder,
    GraphFlow,
    MagenticOneGroupChat,
    RoundRobinGroupChat,
    SelectorGroupChat,
    Swarm,
)
from autogen_core.models import ModelFamily, ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient
from rich.console import Console
from rich.table import Table

import kvflow_autogen
from kvflow_agents.forecast import Steps
from kvflow_agents.hints import decode_request

SERVER = "http://model.test/v1"
NAMES = ("ann", "bob", "cyd", "dan")
# Who speaks next: one more often than the others, as in most conversations.
WEIGHTS = (6, 3, 2, 1)
COUNTS = ("calls", "repeats")
MANAGERS = ("SelectorGroupChatManager", "MagenticOneOrchestrator")
INFO = ModelInfo(
    vision=False,
    function_calling=True,
    json_output=True,
    family=ModelFamily.GPT_4O,
    structured_output=False,
    multiple_system_messages=True,
)


@dataclass
class Call:
    """One request: who made it, what it expected, and in which step of its run."""

    agent: str
    steps: Steps
    step: int = 0


@dataclass
class Model:
    """Answers requests in the process, and keeps what their hints said."""

    chance: random.Random
    calls: list[Call] = field(default_factory=list)

    def client(self) -> OpenAIChatCompletionClient:
        # The older httpx is taken by every version of the SDK.
        http_client = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))
        options: dict[str, Any] = {"http_client": http_client, "model_info": INFO}
        return OpenAIChatCompletionClient(model="stub", base_url=SERVER, api_key="key", **options)

    def pick(self, before: str | None = None) -> str:
        """Who speaks next, of all but the one before: each of them has a favourite."""
        first = (NAMES.index(before) + 1) % len(NAMES) if before in NAMES else 0
        order = [*NAMES[first:], *NAMES[:first]]
        others = [name for name in order if name != before]
        return self.chance.choices(others, WEIGHTS[: len(others)])[0]

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        hint = decode_request(body.get("custom_params"))
        assert hint is not None and hint.agent is not None, "a call without a hint"
        self.calls.append(Call(hint.agent, hint.forecast.steps))
        await asyncio.sleep(0.002)  # calls that are made at once are made before an answer
        message = self._message(hint.agent.rpartition("/")[2], body)
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
        if "tool_calls" in message:
            choice["finish_reason"] = "tool_calls"
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return httpx.Response(
            200,
            json={"id": "0", "object": "chat.completion", "created": 0, "model": "stub"}
            | {"choices": [choice], "usage": usage},
        )

    def _message(self, agent: str, body: dict[str, Any]) -> dict[str, Any]:
        speakers = [call.agent for call in self.calls if call.agent not in MANAGERS]
        last = speakers[-1] if speakers else None
        if agent == "SelectorGroupChatManager":
            return {"content": self.pick(last)}
        if agent == "MagenticOneOrchestrator":
            return {"content": self._ledger(self.pick(last))}
        tools = [tool["function"]["name"] for tool in body.get("tools", ())]
        if tools and self.chance.random() < 0.8:
            name = self.chance.choices(tools, WEIGHTS[: len(tools)])[0]
            return {
                "content": None,
                "tool_calls": [
                    {"id": "0", "type": "function", "function": {"name": name, "arguments": "{}"}}
                ],
            }
        return {"content": "AGAIN" if self.chance.random() < 0.6 else "DONE"}

    def _ledger(self, speaker: str) -> str:
        answers = {
            "is_request_satisfied": self.chance.random() < 0.1,
            "is_progress_being_made": True,
            "is_in_loop": False,
            "instruction_or_question": "go on",
            "next_speaker": speaker,
        }
        return json.dumps({key: {"reason": "x", "answer": value} for key, value in answers.items()})


def members(model: Model, *names: str) -> list[Any]:
    client = model.client()
    return [AssistantAgent(name, client, description=name, system_message=name) for name in names]


def round_robin(model: Model) -> Any:
    return RoundRobinGroupChat(members(model, *NAMES), max_turns=12)


def sequence_of_teams(model: Model) -> Any:
    inner = RoundRobinGroupChat(members(model, "bob", "cyd"), max_turns=2, name="pair")
    (ann,), (dan,) = members(model, "ann"), members(model, "dan")
    return RoundRobinGroupChat([ann, inner, dan], max_turns=9)


def society(model: Model) -> Any:
    inner = RoundRobinGroupChat(members(model, "ann", "bob"), max_turns=2)
    (cyd,) = members(model, "cyd")
    return RoundRobinGroupChat(
        [SocietyOfMindAgent("society", inner, model.client()), cyd], max_turns=6
    )


def graph(model: Model, activation: Any) -> Any:
    """A short branch and a long one, joined by all or by any."""
    a, b, c, c2, d, e = nodes = members(model, "a", "b", "c", "c2", "d", "e")
    builder = DiGraphBuilder()
    for node in nodes:
        builder.add_node(node)
    builder.add_edge(a, b).add_edge(a, c).add_edge(c, c2).add_edge(d, e)
    for node in (b, c2):
        builder.add_edge(node, d, activation_condition=activation)
    return GraphFlow(nodes, builder.build(), max_turns=12)


def graph_loop(model: Model) -> Any:
    writer, critic, editor = nodes = members(model, "writer", "critic", "editor")
    builder = DiGraphBuilder()
    for node in nodes:
        builder.add_node(node)
    builder.add_edge(writer, critic, activation_group="first")
    builder.add_edge(critic, writer, condition="AGAIN", activation_group="again")
    builder.add_edge(critic, editor, condition="DONE")
    builder.set_entry_point(writer)
    return GraphFlow(nodes, builder.build(), max_turns=20)


def selector(model: Model) -> Any:
    return SelectorGroupChat(members(model, *NAMES), model.client(), max_turns=10)


def selector_function(model: Model) -> Any:
    def choose(thread: Sequence[Any]) -> str:
        return model.pick(thread[-1].source)

    return SelectorGroupChat(
        members(model, *NAMES), model.client(), max_turns=10, selector_func=choose
    )


def swarm(model: Model) -> Any:
    client = model.client()
    team: list[Any] = [
        AssistantAgent(
            name,
            client,
            description=name,
            system_message=name,
            handoffs=[Handoff(target=other) for other in NAMES if other != name],
        )
        for name in NAMES
    ]
    return Swarm(team, termination_condition=MaxMessageTermination(30))


def magentic(model: Model) -> Any:
    return MagenticOneGroupChat(members(model, *NAMES), model.client(), max_turns=10)


KINDS: dict[str, Callable[[Model], Any]] = {
    "round robin": round_robin,
    "sequence of teams": sequence_of_teams,
    "society of mind": society,
    "graph, all": lambda model: graph(model, "all"),
    "graph, any": lambda model: graph(model, "any"),
    "graph, loop": graph_loop,
    "selector": selector,
    "selector function": selector_function,
    "swarm": swarm,
    "magentic": magentic,
}


async def run(build: Callable[[Model], Any], runs: int) -> list[list[Call]]:
    """The calls of every run, with their steps."""
    chance = random.Random(0)
    recorded = []
    for _ in range(runs):
        model = Model(chance)
        await build(model).run(task="hi")
        _number(model.calls)
        recorded.append(model.calls)
    return recorded


def _number(calls: Sequence[Call]) -> None:
    for before, call in zip(calls, calls[1:], strict=False):
        at_once = before.agent != call.agent and call.steps.get(before.agent) == 0
        is_again = before.agent == call.agent and call.agent in MANAGERS
        call.step = before.step if at_once or is_again else before.step + 1


def pairs(calls: Sequence[Call]) -> Iterator[tuple[Call, str, int]]:
    """Every call with every other agent that calls in a later step, and in how many steps."""
    for index, call in enumerate(calls):
        seen: set[str] = set()
        for later in calls[index + 1 :]:
            if later.step > call.step and later.agent not in seen:
                seen.add(later.agent)
                yield call, later.agent, later.step - call.step


def followers(recorded: Sequence[Sequence[Call]]) -> dict[str, str]:
    """Who has followed each agent most often."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for calls in recorded:
        for call, agent, distance in pairs(calls):
            if distance == 1:
                counts[call.agent][agent] += 1
    return {agent: count.most_common(1)[0][0] for agent, count in counts.items()}


def score(recorded: Sequence[Sequence[Call]]) -> dict[str, float]:
    favourite = followers(recorded)
    counted: Counter[str] = Counter()
    for calls in recorded:
        for call, agent, distance in pairs(calls):
            # At work now and expected again: 0 says no more than that it is at work.
            expected = call.steps.get(agent)
            if agent == call.agent and distance == 1:
                counted["repeats"] += 1
                counted["repeats foreseen"] += expected is not None and expected <= 1
            if expected == 0:
                continue
            counted["pairs"] += 1
            counted[_verdict(expected, distance)] += 1
            if distance == 1:
                counted["next"] += 1
                counted["next foreseen"] += expected == 1
                counted["next by habit"] += favourite.get(call.agent) == agent
    return {
        "calls": sum(map(len, recorded)),
        **{
            f"next_{name}": counted[f"next {name.replace('_', ' ')}"] / max(counted["next"], 1)
            for name in ("foreseen", "by_habit")
        },
        **{name: counted[name] / max(counted["pairs"], 1) for name in ("exact", "early", "late")},
        "repeats": counted["repeats"],
        "repeats_foreseen": counted["repeats foreseen"] / max(counted["repeats"], 1),
    }


def _verdict(expected: int | None, distance: int) -> str:
    if expected is None or expected > distance:
        return "late"
    return "exact" if expected == distance else "early"


def show(scores: Mapping[str, Mapping[str, float]]) -> None:
    table = Table("team", title="Forecasts of AutoGen teams")
    for name in scores["round robin"]:
        table.add_column(name.replace("_", " "), justify="right")
    for kind, values in scores.items():
        shown = (f"{v:.0f}" if name in COUNTS else f"{v:.0%}" for name, v in values.items())
        table.add_row(kind, *shown)
    Console(width=130).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=40, help="runs of each kind of team")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, too")
    options = parser.parse_args()
    kvflow_autogen.instrument(base_urls=[SERVER])
    scores = {kind: score(asyncio.run(run(build, options.runs))) for kind, build in KINDS.items()}
    show(scores)
    if options.json:
        options.json.write_text(json.dumps(scores, indent=2) + "\n")


if __name__ == "__main__":
    main()
