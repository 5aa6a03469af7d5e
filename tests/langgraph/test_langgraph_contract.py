"""The contract: for every way to draw a graph, its agents and the hint of each of its calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_openai import ChatOpenAI

from kvflow_agents.forecast import Steps
from kvflow_langgraph._structure import structure_of
from tests.fake_openai import FakeOpenAI
from tests.langgraph import graphs, prebuilt

Calls = Sequence[tuple[str, Steps]]


@dataclass(frozen=True)
class Case:
    """A graph, its static agents, and the hint of every call of one run."""

    build: Callable[[ChatOpenAI], graphs.Graph]
    agents: set[str]
    calls: Calls
    script: Callable[[FakeOpenAI], None] = lambda server: None
    input: Any = None

    def run_input(self) -> Any:
        return {"trail": []} if self.input is None else self.input


MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}

CASES = {
    "linear": Case(
        graphs.linear,
        {"a", "b", "c"},
        [
            ("a", {"a": 0, "b": 1, "c": 2}),
            ("b", {"b": 0, "c": 1, "a": None}),
            ("c", {"c": 0, "a": None, "b": None}),
        ],
    ),
    "diamond": Case(
        graphs.diamond,
        {"a", "b", "c", "c2", "d"},
        [
            ("a", {"a": 0, "b": 1, "c": 1, "c2": 2, "d": 3}),
            ("b", {"b": 0, "c": 0, "c2": 1, "d": 2, "a": None}),
            ("c", {"b": 0, "c": 0, "c2": 1, "d": 2, "a": None}),
            ("c2", {"c2": 0, "d": 1, "a": None, "b": None, "c": None}),
            ("d", {"d": 0, "a": None, "b": None, "c": None, "c2": None}),
        ],
    ),
    "conditional": Case(
        graphs.conditional,
        {"a", "b", "c"},
        [("a", {"a": 0, "b": 1, "c": 1}), ("b", {"b": 0, "a": None})],
    ),
    "untyped branch": Case(
        graphs.untyped_branch,
        {"a", "b", "c"},
        [
            ("a", {"a": 0, "b": 1, "c": 1}),
            ("b", {"b": 0, "c": 1, "a": None}),
            ("c", {"c": 0, "a": None, "b": None}),
        ],
    ),
    "loop": Case(
        graphs.loop,
        {"write", "review"},
        [
            ("write", {"write": 0, "review": 1}),
            ("review", {"review": 0, "write": 1}),
            ("write", {"write": 0, "review": 1}),
            ("review", {"review": 0, "write": 1}),
        ],
    ),
    "self-edge": Case(
        graphs.self_edge,
        {"a", "b"},
        [("a", {"a": 0, "b": 1}), ("a", {"a": 0, "b": 1}), ("b", {"b": 0, "a": None})],
    ),
    "map-reduce": Case(
        graphs.map_reduce,
        {"split", "worker", "join"},
        [
            ("split", {"split": 0, "worker": 1, "join": 2}),
            *3 * [("worker", {"worker": 0, "join": 1, "split": None})],
            ("join", {"join": 0, "split": None, "worker": None}),
        ],
    ),
    "command": Case(
        graphs.command,
        {"a", "b", "c"},
        [("a", {"a": 0, "b": 1, "c": 1}), ("c", {"c": 0, "a": None})],
    ),
    "nested": Case(
        graphs.nested,
        {"plan", "team/writer", "team/pair/x", "team/pair/y", "check"},
        [
            (
                "plan",
                {"plan": 0, "team/writer": 1, "team/pair/x": 2, "team/pair/y": 3, "check": 4},
            ),
            (
                "team/writer",
                {"team/writer": 0, "team/pair/x": 1, "team/pair/y": 2, "check": 3, "plan": None},
            ),
            (
                "team/pair/x",
                {"team/pair/x": 0, "team/pair/y": 1, "check": 2}
                | {"team/writer": None, "plan": None},
            ),
            (
                "team/pair/y",
                {"team/pair/y": 0, "check": 1}
                | {"team/pair/x": None, "team/writer": None, "plan": None},
            ),
            (
                "check",
                {"check": 0, "plan": None}
                | {"team/writer": None, "team/pair/x": None, "team/pair/y": None},
            ),
        ],
    ),
    "functional": Case(
        graphs.functional,
        {"essay"},
        [
            ("draft", {"draft": 0, "essay": 0}),
            ("review", {"review": 0, "essay": 0, "draft": 1}),
        ],
        input="kv caches",
    ),
    "create_agent": Case(
        prebuilt.with_tools,
        {"model", "tools"},
        2 * [("model", {"model": 0, "tools": 1})],
        prebuilt.script_with_tools,
        MESSAGES,
    ),
    "supervisor": Case(
        prebuilt.supervisor,
        {"supervisor/agent", "supervisor/tools", "math/model", "math/tools", "research/model"},
        [
            (
                "supervisor/agent",
                {"supervisor/agent": 0, "supervisor/tools": 1}
                | {"math/model": 1, "math/tools": 2, "research/model": 1},
            ),
            *2
            * [
                (
                    "math/model",
                    {"math/model": 0, "math/tools": 1}
                    | {"supervisor/agent": 1, "supervisor/tools": 2, "research/model": 2},
                )
            ],
            (
                "supervisor/agent",
                {"supervisor/agent": 0, "supervisor/tools": 1}
                | {"math/model": 1, "math/tools": 2, "research/model": 1},
            ),
            (
                "research/model",
                {"research/model": 0}
                | {"supervisor/agent": 1, "supervisor/tools": 2}
                | {"math/model": 2, "math/tools": 3},
            ),
            (
                "supervisor/agent",
                {"supervisor/agent": 0, "supervisor/tools": 1}
                | {"math/model": 1, "math/tools": 2, "research/model": 1},
            ),
        ],
        prebuilt.script_supervisor,
        MESSAGES,
    ),
    "swarm": Case(
        prebuilt.swarm,
        {"alice/model", "alice/tools", "bob/model", "bob/tools"},
        [
            ("alice/model", {"alice/model": 0, "alice/tools": 1, "bob/model": 1, "bob/tools": 2}),
            ("bob/model", {"bob/model": 0, "bob/tools": 1, "alice/model": 1, "alice/tools": 2}),
        ],
        prebuilt.script_swarm,
        MESSAGES,
    ),
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def in_order(calls: Iterable[tuple[str | None, Steps]]) -> list[str]:
    """Calls in an order that does not depend on which of several parallel ones came first."""
    return sorted(f"{agent} {sorted(steps.items(), key=str)}" for agent, steps in calls)


def assert_as_expected(server: FakeOpenAI, case: Case) -> None:
    received = [(request.agent, request.steps) for request in server.requests]
    assert in_order(received) == in_order(case.calls)


@every_case
def test_the_static_graph_has_the_agents(case: Case, model: ChatOpenAI) -> None:
    structure = structure_of(case.build(model))
    assert set(structure.agents) == case.agents


@every_case
def test_every_call_carries_its_hint(
    case: Case, model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    instrumented.delay_s = 0.05  # parallel calls arrive before one of them is answered
    case.script(instrumented)
    case.build(model).invoke(case.run_input())
    assert_as_expected(instrumented, case)


ASYNC_CASES = {name: case for name, case in CASES.items() if name not in ("functional", "command")}


@pytest.mark.parametrize("case", ASYNC_CASES.values(), ids=ASYNC_CASES.keys())
async def test_every_async_call_carries_its_hint(
    case: Case, model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    instrumented.delay_s = 0.05
    case.script(instrumented)
    await case.build(model).ainvoke(case.run_input())
    assert_as_expected(instrumented, case)


@pytest.mark.parametrize("case", ASYNC_CASES.values(), ids=ASYNC_CASES.keys())
async def test_every_streaming_call_carries_its_hint(
    case: Case, model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    instrumented.delay_s = 0.05
    case.script(instrumented)
    graph = case.build(model)
    async for _ in graph.astream(case.run_input(), stream_mode="messages", subgraphs=True):
        pass
    assert all(request.body.get("stream") for request in instrumented.requests)
    assert_as_expected(instrumented, case)


RUNTIME_ONLY = {
    "nested in code": Case(graphs.nested_in_code, set(), []),
    "fan-out of teams": Case(graphs.fan_out_of_teams, set(), []),
}
ALL_CASES = CASES | RUNTIME_ONLY


@pytest.mark.parametrize("case", ALL_CASES.values(), ids=ALL_CASES.keys())
def test_once_a_run_was_seen_no_forecast_is_late(
    case: Case, model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    instrumented.delay_s = 0.02
    graph = case.build(model)
    for _ in range(2):
        instrumented.clear()
        case.script(instrumented)
        graph.invoke(case.run_input())
    for before, request in zip(instrumented.requests, instrumented.requests[1:], strict=False):
        assert request.agent is not None
        assert before.steps.get(request.agent) in (0, 1), f"{request.agent} after {before}"
