"""For every kind of team, its agents and the hint of each of its calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from kvflow_agents.forecast import Steps
from tests.autogen import teams
from tests.fake_openai import FakeOpenAI

SELECTOR, MAGENTIC = teams.SELECTOR, teams.MAGENTIC
ANSWER = "society/SocietyOfMindAgent"

Calls = Sequence[tuple[str, Steps]]


@dataclass(frozen=True)
class Case:
    """A team and the hint of every call of one run."""

    build: Callable[[teams.Client], teams.Team]
    calls: Calls
    script: Callable[[FakeOpenAI], None] = lambda server: None


def choose(*names: str) -> tuple[str, Steps]:
    return SELECTOR, {SELECTOR: 0} | dict.fromkeys(names, 1)


def chosen(name: str, *others: str) -> tuple[str, Steps]:
    return name, {name: 0, SELECTOR: 1} | dict.fromkeys(others, 2)


def direct(name: str, *others: str) -> tuple[str, Steps]:
    return name, {name: 0, SELECTOR: 1} | dict.fromkeys(others, 1)


A_ROUND: Calls = [
    ("a", {"a": 0, "b": 1, "c": 2}),
    ("b", {"b": 0, "c": 1, "a": 2}),
    ("c", {"c": 0, "a": 1, "b": 2}),
]
IN_SOCIETY: Calls = [
    ("society/a", {"society/a": 0, "society/b": 1, ANSWER: 2, "last": 3}),
    ("society/b", {"society/b": 0, ANSWER: 1, "last": 2, "society/a": 3}),
    (ANSWER, {ANSWER: 0, "last": 1, "society/a": 2, "society/b": 3}),
    ("last", {"last": 0, "society/a": 1, "society/b": 2, ANSWER: 3}),
]
THINK: tuple[str, Steps] = (MAGENTIC, {MAGENTIC: 0, "a": 1, "b": 1})

CASES = {
    "round robin": Case(teams.round_robin, [*A_ROUND, *A_ROUND]),
    "selector": Case(
        teams.selector,
        [
            choose("a", "b", "c"),
            chosen("a", "b", "c"),
            # The model's first answer names nobody: it is asked again.
            *2 * [choose("a", "b", "c")],
            chosen("b", "a", "c"),
            choose("a", "b", "c"),
            chosen("c", "a", "b"),
            choose("a", "b", "c"),
            chosen("a", "b", "c"),
        ],
        teams.script_selector,
    ),
    "selector function": Case(
        teams.selector_function,
        [
            direct("a", "b", "c"),
            choose("a", "b", "c"),
            direct("b", "a", "c"),
            direct("a", "b", "c"),
            direct("c", "a", "b"),
        ],
        teams.script_selector_function,
    ),
    "candidate function": Case(
        teams.candidate_function,
        [
            direct("b", "a", "c"),
            choose("a", "b", "c"),
            direct("c", "a", "b"),
            direct("b", "a", "c"),
        ],
        teams.script_candidate_function,
    ),
    "pair": Case(
        teams.pair,
        [
            choose("a", "b"),
            ("b", {"b": 0, "a": 1, SELECTOR: None}),
            ("a", {"a": 0, "b": 1, SELECTOR: None}),
            ("b", {"b": 0, "a": 1, SELECTOR: None}),
            ("a", {"a": 0, "b": 1, SELECTOR: None}),
        ],
        teams.script_pair,
    ),
    "swarm": Case(
        teams.swarm,
        [
            ("a", {"a": 0, "b": 1, "c": 2}),
            *2 * [("b", {"b": 0, "a": 1, "c": 1})],
            *5 * [("c", {"c": 0, "a": None, "b": None})],
        ],
        teams.script_swarm,
    ),
    "graph flow, all": Case(
        teams.flow_and,
        [
            ("a", {"a": 0, "b": 1, "c": 1, "c2": 2, "d": 3}),
            ("b", {"b": 0, "c": 0, "c2": 1, "d": 2, "a": None}),
            ("c", {"b": 0, "c": 0, "c2": 1, "d": 2, "a": None}),
            ("c2", {"c2": 0, "d": 1, "a": None, "b": None, "c": None}),
            ("d", {"d": 0, "a": None, "b": None, "c": None, "c2": None}),
        ],
    ),
    "graph flow, any": Case(
        teams.flow_any,
        [
            ("a", {"a": 0, "b": 1, "c": 1, "c2": 2, "d": 2}),
            ("b", {"b": 0, "c": 0, "c2": 1, "d": 1, "a": None}),
            ("c", {"b": 0, "c": 0, "c2": 1, "d": 1, "a": None}),
            ("d", {"d": 0, "c2": 0, "a": None, "b": None, "c": None}),
            ("c2", {"d": 0, "c2": 0, "a": None, "b": None, "c": None}),
            ("d", {"d": 0, "a": None, "b": None, "c": None, "c2": None}),
        ],
    ),
    "graph flow, loop": Case(
        teams.flow_loop,
        [
            *2
            * [
                ("writer", {"writer": 0, "reviewer": 1, "publisher": 2}),
                ("reviewer", {"reviewer": 0, "writer": 1, "publisher": 1}),
            ],
            ("publisher", {"publisher": 0, "writer": None, "reviewer": None}),
        ],
        teams.script_flow_loop,
    ),
    "team of one's own": Case(
        teams.lottery,
        [
            ("c", {"c": 0, "a": 1, "b": 1}),
            ("a", {"a": 0, "b": 1, "c": 1}),
            ("c", {"c": 0, "a": 1, "b": 1}),
            ("b", {"b": 0, "a": 1, "c": 1}),
        ],
    ),
    "magentic": Case(
        teams.magentic,
        [
            # Facts, a plan, and the first ledger.
            *3 * [THINK],
            ("a", {"a": 0, MAGENTIC: 1, "b": 2}),
            THINK,
            ("b", {"b": 0, MAGENTIC: 1, "a": 2}),
            # The last ledger and the answer.
            *2 * [THINK],
        ],
        teams.script_magentic,
    ),
    "society of mind": Case(teams.society, [*IN_SOCIETY, *IN_SOCIETY]),
    "nested": Case(
        teams.nested,
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
                | {"plan": None, "team/writer": None},
            ),
            (
                "team/pair/y",
                {"team/pair/y": 0, "check": 1}
                | {"plan": None, "team/writer": None, "team/pair/x": None},
            ),
            (
                "check",
                {"check": 0} | dict.fromkeys(("plan", "team/writer", "team/pair/x", "team/pair/y")),
            ),
        ],
    ),
    "agent tool": Case(
        teams.agent_tool,
        [
            ("boss", {"boss": 0, "last": 1}),
            ("boss/helper", {"boss": 0, "boss/helper": 0, "last": 1}),
            ("boss", {"boss": 0, "boss/helper": 1, "last": 1}),
            ("last", {"last": 0, "boss": None, "boss/helper": None}),
        ],
        teams.script_agent_tool,
    ),
    "team tool": Case(
        teams.team_tool,
        [
            ("boss", {"boss": 0}),
            ("boss/pair/x", {"boss": 0, "boss/pair/x": 0, "boss/pair/y": 1}),
            ("boss/pair/y", {"boss": 0, "boss/pair/y": 0, "boss/pair/x": 1}),
            ("boss", {"boss": 0, "boss/pair/x": 1, "boss/pair/y": 2}),
        ],
        teams.script_team_tool,
    ),
    "single agent": Case(teams.single, [("solo", {"solo": 0})]),
    "message filter": Case(
        teams.filtered,
        [("a", {"a": 0, "outer": 1}), ("outer", {"outer": 0, "a": None})],
    ),
    "agent of one's own": Case(
        teams.custom,
        [
            ("duet/first", {"duet": 0, "duet/first": 0, "last": 1}),
            ("duet/second", {"duet": 0, "duet/second": 0, "duet/first": 1, "last": 1}),
            ("last", {"last": 0, "duet/first": None, "duet/second": None}),
        ],
    ),
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def in_order(calls: Iterable[tuple[str | None, Steps]]) -> list[str]:
    """Calls in an order that does not depend on which of several parallel ones came first."""
    return sorted(f"{agent} {sorted(steps.items(), key=str)}" for agent, steps in calls)


def assert_as_expected(server: FakeOpenAI, case: Case) -> None:
    received = [(request.agent, request.steps) for request in server.requests]
    assert in_order(received) == in_order(case.calls)
    assert len({request.workflow for request in server.requests}) == 1


@every_case
async def test_every_call_carries_its_hint(
    case: Case, model: teams.Client, instrumented: FakeOpenAI
) -> None:
    instrumented.delay_s = 0.02  # parallel calls arrive before one of them is answered
    case.script(instrumented)
    await case.build(model).run(task="hi")
    assert_as_expected(instrumented, case)


@every_case
async def test_every_streaming_call_carries_its_hint(
    case: Case, model: teams.Client, instrumented: FakeOpenAI
) -> None:
    model.streams = True
    instrumented.delay_s = 0.02
    case.script(instrumented)
    async for _ in case.build(model).run_stream(task="hi"):
        pass
    assert any(request.body.get("stream") for request in instrumented.requests)
    assert_as_expected(instrumented, case)


@every_case
async def test_nobody_who_runs_next_was_expected_later(
    case: Case, model: teams.Client, instrumented: FakeOpenAI
) -> None:
    """Also in a second run of the same kind, with what the first has taught."""
    for _ in range(2):
        instrumented.clear()
        case.script(instrumented)
        await case.build(model).run(task="hi")
    for before, request in zip(instrumented.requests, instrumented.requests[1:], strict=False):
        assert request.agent is not None
        assert before.steps.get(request.agent) in (0, 1), f"{request.agent} after {before.hint}"


@every_case
async def test_messages_are_the_same_with_hints_and_without(
    case: Case, model: teams.Client, server: FakeOpenAI
) -> None:
    import kvflow_autogen

    async def messages() -> list[Any]:
        case.script(server)
        result = await case.build(model).run(task="hi")
        return [(type(each), each.source, str(each.content)) for each in result.messages]

    plain = await messages()
    kvflow_autogen.instrument(base_urls=[server.base_url])
    assert await messages() == plain
    kvflow_autogen.uninstrument()
