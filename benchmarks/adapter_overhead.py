"""What an adapter costs: its own time per model call, its memory over many runs.

    python benchmarks/adapter_overhead.py [--framework autogen] [--runs 10000] [--json FILE]

20 agents in a line, a LangGraph graph, an AutoGen team, a workflow of Agent Framework, runs in
one trace of the OpenAI Agents SDK or what a tool of a Pydantic AI agent asks, call a model that is
answered inside the process. Every moment inside the adapter and the carrier is counted, the making
of forecasts and hints included; what belongs to a call is all of it since the call before.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, Protocol, TypedDict

import agents as openai_agents
import httpx
import openai
import pydantic_ai
from agent_framework import Agent, WorkflowBuilder
from agent_framework_openai import OpenAIChatCompletionClient as FrameworkClient
from agents.tracing import set_trace_processors
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import ModelFamily, ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient
from langgraph.graph import START, StateGraph
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from rich.console import Console
from rich.table import Table

import kvflow_agent_framework
import kvflow_autogen
import kvflow_langgraph
import kvflow_openai_agents
import kvflow_pydantic_ai
from kvflow_agents.failsafe import Failsafe

AGENTS = 20
ANSWER = {
    "id": "0",
    "object": "chat.completion",
    "created": 0,
    "model": "stub",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
CALL = {"id": "0", "type": "function", "function": {"name": "ask_all", "arguments": "{}"}}
ASKS = {
    **ANSWER,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "tool_calls": [CALL]},
            "finish_reason": "tool_calls",
        }
    ],
}
INFO = ModelInfo(
    vision=False,
    function_calling=False,
    json_output=False,
    family=ModelFamily.GPT_4O,
    structured_output=False,
)


class Adapter(Protocol):
    """What is measured: `kvflow_langgraph`, `kvflow_autogen` or another adapter."""

    def instrument(self, *, base_urls: list[str]) -> None: ...

    def uninstrument(self) -> None: ...


Run = Callable[[], object]
"""Runs an application once."""


class State(TypedDict, total=False):
    count: Annotated[int, lambda old, new: new]


class OwnTime:
    """Counts the time inside the adapter, all of which goes through one gate: the failsafe."""

    def __init__(self) -> None:
        self.wall_us: list[float] = []
        self.cpu_us: list[float] = []
        self._wall_ns = self._cpu_ns = 0
        self._is_inside = False
        self._original: Any = Failsafe.__call__

    def start(self) -> None:
        original = self._original

        def timed(failsafe: Failsafe, function: Any, *args: Any, **kwargs: Any) -> Any:
            if self._is_inside:
                return original(failsafe, function, *args, **kwargs)
            self._is_inside = True
            wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
            try:
                return original(failsafe, function, *args, **kwargs)
            finally:
                self._cpu_ns += time.thread_time_ns() - cpu
                self._wall_ns += time.perf_counter_ns() - wall
                self._is_inside = False

        self._put_in_place(timed)

    def stop(self) -> None:
        self._put_in_place(self._original)

    def next_call(self) -> None:
        """A request has left: what was spent on it is complete."""
        self.wall_us.append(self._wall_ns / 1000)
        self.cpu_us.append(self._cpu_ns / 1000)
        self._wall_ns = self._cpu_ns = 0

    def _put_in_place(self, gate: Any) -> None:
        Failsafe.__call__ = gate  # type: ignore[method-assign]


def make_graph(agents: int, base_url: str, on_request: Callable[[], None]) -> Run:
    def answer(request: httpx.Request) -> httpx.Response:
        on_request()
        return httpx.Response(200, json=ANSWER)

    client = openai.OpenAI(
        base_url=base_url,
        api_key="key",
        # The older httpx is taken by every version of the SDK.
        http_client=httpx.Client(transport=httpx.MockTransport(answer)),  # type: ignore[arg-type,unused-ignore]
    )

    def agent(state: State) -> State:
        client.chat.completions.create(model="stub", messages=[{"role": "user", "content": "hi"}])
        return {"count": state.get("count", 0) + 1}

    graph = StateGraph(State)
    names = [f"agent{number:02}" for number in range(agents)]
    for name in names:
        graph.add_node(name, agent)
    for before, after in zip([START, *names], names, strict=False):
        graph.add_edge(before, after)
    app: Any = graph.compile()
    return lambda: app.invoke({})


def make_team(agents: int, base_url: str, on_request: Callable[[], None]) -> Run:
    async def answer(request: httpx.Request) -> httpx.Response:
        on_request()
        return httpx.Response(200, json=ANSWER)

    http_client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    options: dict[str, Any] = {"http_client": http_client, "model_info": INFO}
    client = OpenAIChatCompletionClient(model="stub", base_url=base_url, api_key="key", **options)
    loop = asyncio.new_event_loop()

    def run() -> None:
        # A new team each time: the history of one that goes on would grow.
        members: list[Any] = [
            AssistantAgent(f"agent{number:02}", client) for number in range(agents)
        ]
        team = RoundRobinGroupChat(members, max_turns=agents)
        loop.run_until_complete(team.run(task="hi"))

    return run


def make_client(base_url: str, on_request: Callable[[], None]) -> openai.AsyncOpenAI:
    """A client whose model uses a tool that it is offered, once."""

    async def answer(request: httpx.Request) -> httpx.Response:
        on_request()
        body = json.loads(request.content)
        asks = "tools" in body and body["messages"][-1]["role"] != "tool"
        return httpx.Response(200, json=ASKS if asks else ANSWER)

    http_client: Any = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return openai.AsyncOpenAI(base_url=base_url, api_key="key", http_client=http_client)


def make_traced_runs(agents: int, base_url: str, on_request: Callable[[], None]) -> Run:
    set_trace_processors([])
    client = make_client(base_url, on_request)
    model = openai_agents.OpenAIChatCompletionsModel(model="stub", openai_client=client)
    members: list[Any] = [
        openai_agents.Agent(f"agent{number:02}", model=model) for number in range(agents)
    ]
    loop = asyncio.new_event_loop()

    async def run_all() -> None:
        with openai_agents.trace("line"):
            for member in members:
                await openai_agents.Runner.run(member, "hi")

    return lambda: loop.run_until_complete(run_all())


def make_asking_agent(agents: int, base_url: str, on_request: Callable[[], None]) -> Run:
    client = make_client(base_url, on_request)
    model = OpenAIChatModel("stub", provider=OpenAIProvider(openai_client=client))
    members = [pydantic_ai.Agent(model, name=f"agent{number:02}") for number in range(agents)]
    boss = pydantic_ai.Agent(model, name="boss")
    loop = asyncio.new_event_loop()

    @boss.tool_plain
    async def ask_all() -> str:
        for member in members:
            await member.run("hi")
        return "done"

    return lambda: loop.run_until_complete(boss.run("hi"))


def make_workflow(agents: int, base_url: str, on_request: Callable[[], None]) -> Run:
    chat: Any = FrameworkClient(model="stub", async_client=make_client(base_url, on_request))
    loop = asyncio.new_event_loop()

    def run() -> None:
        # A new workflow each time: the history of one that goes on would grow.
        members: list[Any] = [Agent(chat, name=f"agent{number:02}") for number in range(agents)]
        builder = WorkflowBuilder(start_executor=members[0])
        for before, after in zip(members, members[1:], strict=False):
            builder = builder.add_edge(before, after)

        async def run_once() -> None:
            await builder.build().run("hi")

        loop.run_until_complete(run_once())

    return run


FRAMEWORKS: dict[str, tuple[Adapter, Callable[[int, str, Callable[[], None]], Run]]] = {
    "langgraph": (kvflow_langgraph, make_graph),
    "autogen": (kvflow_autogen, make_team),
    "openai-agents": (kvflow_openai_agents, make_traced_runs),
    "pydantic-ai": (kvflow_pydantic_ai, make_asking_agent),
    "agent-framework": (kvflow_agent_framework, make_workflow),
}


def measure_time(framework: str, runs: int, base_url: str) -> dict[str, float]:
    own = OwnTime()
    adapter, make = FRAMEWORKS[framework]
    run = make(AGENTS, base_url, own.next_call)
    adapter.instrument(base_urls=[base_url])
    for _ in range(20):
        run()
    own.wall_us.clear()
    own.cpu_us.clear()
    own.start()
    for _ in range(runs):
        run()
    own.stop()
    adapter.uninstrument()
    wall = statistics.quantiles(own.wall_us, n=1000)
    cpu = statistics.quantiles(own.cpu_us, n=1000)
    return {
        "calls": len(own.wall_us),
        "wall_p50_us": wall[499],
        "wall_p99_us": wall[989],
        "cpu_p50_us": cpu[499],
        "cpu_p99_us": cpu[989],
    }


def measure_run(framework: str, runs: int, base_url: str) -> dict[str, float]:
    """Whole runs, with and without in turn, so that both see the same machine."""
    adapter, make = FRAMEWORKS[framework]
    run = make(AGENTS, base_url, lambda: None)
    plain_ms, hinted_ms = [], []
    for _ in range(runs):
        plain_ms.append(_time_ms(run))
        adapter.instrument(base_urls=[base_url])
        hinted_ms.append(_time_ms(run))
        adapter.uninstrument()
    return {
        "plain_run_ms": statistics.median(plain_ms),
        "hinted_run_ms": statistics.median(hinted_ms),
    }


def measure_memory(framework: str, runs: int, base_url: str) -> dict[str, float]:
    """Memory allocated by our code and still alive, after half of the runs and after all."""
    adapter, make = FRAMEWORKS[framework]
    run = make(3, base_url, lambda: None)
    adapter.instrument(base_urls=[base_url])
    run()
    tracemalloc.start()
    alive: list[float] = []
    for number in range(1, runs + 1):
        run()
        if number in (runs // 2, runs):
            alive.append(_ours_kib())
    tracemalloc.stop()
    adapter.uninstrument()
    return {"runs": runs, "half_kib": alive[0], "all_kib": alive[1]}


def _ours_kib() -> float:
    gc.collect()
    snapshot = tracemalloc.take_snapshot()
    ours = snapshot.filter_traces([tracemalloc.Filter(True, "*/kvflow_*")])
    return sum(stat.size for stat in ours.statistics("filename")) / 1024


class NoForecasts(BaseHTTPRequestHandler):
    """A server without kvflow: asked for a forecast once, and not again."""

    def do_POST(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def server() -> Iterator[str]:
    """Somewhere to announce ends to, so that none of that goes on in the background."""
    with ThreadingHTTPServer(("127.0.0.1", 0), NoForecasts) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/v1"
        http.shutdown()


def _time_ms(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return (time.perf_counter() - begin) * 1000


def show(framework: str, result: dict[str, dict[str, float]]) -> None:
    own, run, memory = result["time"], result["run"], result["memory"]
    table = Table(title=f"Adapter for {framework}, {AGENTS} agents in a line")
    for heading in ("measure", "value", "target"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    for clock in ("wall", "cpu"):
        for percentile, target in (("p50", "< 100 us"), ("p99", "< 1000 us")):
            value = own[f"{clock}_{percentile}_us"]
            table.add_row(
                f"own {clock} time per model call, {percentile}", f"{value:.0f} us", target
            )
    table.add_row("run without, median", f"{run['plain_run_ms']:.1f} ms", "")
    table.add_row("run with, median", f"{run['hinted_run_ms']:.1f} ms", "")
    half, all_runs = int(memory["runs"] / 2), int(memory["runs"])
    table.add_row(f"memory after {half} runs", f"{memory['half_kib']:.0f} KiB", "")
    table.add_row(f"memory after {all_runs} runs", f"{memory['all_kib']:.0f} KiB", "flat")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--framework", choices=FRAMEWORKS, default="langgraph")
    parser.add_argument("--runs", type=int, default=10_000, help="runs of the memory test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, too")
    options = parser.parse_args()
    with server() as base_url:
        result = {
            "time": measure_time(options.framework, 200, base_url),
            "run": measure_run(options.framework, 100, base_url),
            "memory": measure_memory(options.framework, options.runs, base_url),
        }
    show(options.framework, result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
