"""Small agents and workflows, one for every pattern, and the replies that take them through."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step
from llama_index.llms.openai_like import OpenAILike

from tests.fake_openai import FakeOpenAI, ToolCall

_numbers = itertools.count(1)


def model(server: FakeOpenAI, *, reuse_client: bool = False) -> OpenAILike:
    return OpenAILike(
        model="fake",
        api_base=server.base_url,
        api_key="key",
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
        # One that is kept belongs to the event loop that used it first.
        reuse_client=reuse_client,
    )


def mark(name: str) -> str:
    """What only the prompts of this agent have in them."""
    return f"SYSTEM OF {name}."


def agent(server: FakeOpenAI, name: str, **options: Any) -> FunctionAgent:
    return FunctionAgent(
        name=name,
        description=name,
        system_prompt=options.pop("system_prompt", mark(name)),
        llm=model(server),
        **options,
    )


def handoff(to: str) -> ToolCall:
    return ToolCall("handoff", {"to_agent": to, "reason": "it is your turn"})


def chain(server: FakeOpenAI, names: Sequence[str], **options: Any) -> AgentWorkflow:
    """Each can hand over to the next, all with one prompt."""
    followers = [[name] for name in names[1:]] + [[]]
    return AgentWorkflow(
        agents=[
            agent(server, name, can_handoff_to=after, system_prompt="Go on.", **options)
            for name, after in zip(names, followers, strict=True)
        ],
        root_agent=names[0],
    )


def script_chain(server: FakeOpenAI, names: Sequence[str]) -> str:
    """The message with which a chain goes from one end to the other."""
    task = f"Task {next(_numbers)}."
    server.script(task, *(handoff(name) for name in names[1:]), "done")
    return task


class Text(Event):
    """What one step tells another."""

    trail: list[str]


async def ask(server: FakeOpenAI, name: str, llm: OpenAILike | None = None) -> str:
    """One call to the model, by whoever is at work."""
    return str(await (llm or model(server)).acomplete(mark(name)))


def line(server: FakeOpenAI, names: Sequence[str], llm: OpenAILike | None = None) -> Workflow:
    """A workflow of steps, each of which asks the model once: one of its own, or theirs."""
    events = [type(f"After{name}", (Text,), {}) for name in names[:-1]]

    class Line(Workflow):
        pass

    for name, taken, given in zip(names, [StartEvent, *events], [*events, StopEvent], strict=True):
        step(workflow=Line)(_asks(lambda: ask(server, "us", llm), name, taken, given))
    return Line()


def _asks(call: Callable[[], Awaitable[str]], name: str, taken: type, given: Any) -> Any:
    async def asks(ev: Any) -> Any:
        trail = [*getattr(ev, "trail", []), await call()]
        return StopEvent(result=trail) if given is StopEvent else given(trail=trail)

    asks.__name__ = asks.__qualname__ = name
    asks.__annotations__ = {"ev": taken, "return": given}
    return asks


class A(Text): ...


class B(Text): ...


class ADone(Text): ...


class BDone(Text): ...


def parallel(server: FakeOpenAI) -> Workflow:
    """One step, then two at once, then one that needs both."""

    class Parallel(Workflow):
        @step
        async def plan(self, ctx: Context, ev: StartEvent) -> A | B | None:
            await ask(server, "plan")
            ctx.send_event(A(trail=[]))
            ctx.send_event(B(trail=[]))
            return None

        @step
        async def left(self, ev: A) -> ADone:
            await ask(server, "left")
            return ADone(trail=[])

        @step
        async def right(self, ev: B) -> BDone:
            await ask(server, "right")
            return BDone(trail=[])

        @step
        async def merge(self, first: ADone, second: BDone) -> StopEvent:
            return StopEvent(result=await ask(server, "merge"))

    return Parallel()


def of_agents(server: FakeOpenAI) -> Workflow:
    """Steps that run agents: one, two of them at once, a team."""
    writer, left, right = (agent(server, name) for name in ("writer", "left", "right"))
    team = chain(server, ["first", "second"])

    class OfAgents(Workflow):
        @step
        async def draft(self, ev: StartEvent) -> A:
            return A(trail=[str(await writer.run(user_msg="draft"))])

        @step
        async def check(self, ev: A) -> B:
            answers = await asyncio.gather(left.run(user_msg="a"), right.run(user_msg="b"))
            return B(trail=[*map(str, answers)])

        @step
        async def finish(self, ev: B) -> StopEvent:
            task = script_chain(server, ["first", "second"])
            return StopEvent(result=str(await team.run(user_msg=task)))

    return OfAgents()


def tool_agent(server: FakeOpenAI, **options: Any) -> FunctionAgent:
    """An agent with another one as its tool."""
    helper = agent(server, "helper", **options)

    async def consult(question: str) -> str:
        """Ask somebody who knows."""
        return str(await helper.run(user_msg=question))

    return agent(server, "boss", tools=[consult], **options)


def script_tool_agent(server: FakeOpenAI) -> None:
    server.script(mark("boss"), ToolCall("consult", {"question": "why?"}), "done")


def react(server: FakeOpenAI) -> ReActAgent:
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    return ReActAgent(
        name="thinker", description="thinks", system_prompt=mark("thinker"), tools=[add],
        llm=model(server),
    )  # fmt: skip
