"""Runs as workflows: their names, their ends, and that nothing is left of them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat, Swarm
from autogen_core import CancellationToken, SingleThreadedAgentRuntime

from kvflow_agents.hints import Hint
from kvflow_autogen._adapter import adapter
from tests.adapter_fixtures import assert_as_without_us, deliver
from tests.autogen import teams
from tests.fake_openai import FakeOpenAI, ToolCall


def ends(server: FakeOpenAI) -> list[Hint]:
    deliver(adapter)
    return server.forecasts


def is_empty() -> bool:
    """Whether the observer remembers no run that is over, and no team in it."""
    gc.collect()
    return not adapter.observer._scopes and not len(adapter.observer._runs)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert is_empty()


async def test_a_team_may_go_on_so_nobody_is_expected_for_now(
    model: teams.Client, instrumented: FakeOpenAI
) -> None:
    team = teams.round_robin(model)
    for _ in range(2):
        await team.run(task="hi")
    first, second = ends(instrumented)
    for end in (first, second):
        assert not end.forecast.done
        assert end.forecast.steps == dict.fromkeys("abc")
    assert len({request.workflow for request in instrumented.requests}) == 1
    seqs = [request.hint.forecast.seq for request in instrumented.requests if request.hint]
    assert seqs == sorted(set(seqs))
    assert seqs[5] < first.forecast.seq < seqs[6]


async def test_a_team_that_is_reset_is_done(model: teams.Client, instrumented: FakeOpenAI) -> None:
    team = teams.round_robin(model)
    await team.run(task="hi")
    await team.reset()
    await team.reset()
    assert [end.forecast.done for end in ends(instrumented)] == [False, True]
    await team.run(task="hi")
    assert len({request.workflow for request in instrumented.requests}) == 1
    last = instrumented.requests[-1].hint
    assert last and last.forecast.seq > instrumented.forecasts[1].forecast.seq


async def test_a_team_that_is_gone_is_done_when_the_next_one_runs(
    model: teams.Client, instrumented: FakeOpenAI
) -> None:
    team = teams.round_robin(model)
    await team.run(task="hi")
    gone = instrumented.requests[0].workflow
    del team
    gc.collect()
    await teams.single(model).run(task="hi")
    assert [end.workflow for end in ends(instrumented) if end.forecast.done] == [gone]


async def test_a_team_inside_another_has_no_end_of_its_own(
    model: teams.Client, instrumented: FakeOpenAI
) -> None:
    # A society of mind resets its team after every turn.
    await teams.society(model).run(task="hi")
    assert [end.forecast.done for end in ends(instrumented)] == [False]


async def test_a_cancelled_run_is_over(
    model: teams.Client, instrumented: FakeOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    instrumented.delay_s = 0.5
    token = CancellationToken()
    run = asyncio.create_task(teams.nested(model).run(task="hi", cancellation_token=token))
    while not instrumented.requests:
        await asyncio.sleep(0.01)
    token.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert len(ends(instrumented)) == 1
    caplog.clear()  # AutoGen logs a traceback, which keeps alive all that it went through


async def test_a_cancelled_task_is_over(model: teams.Client, instrumented: FakeOpenAI) -> None:
    instrumented.delay_s = 0.5
    run = asyncio.create_task(teams.single(model).run(task="hi"))
    while not instrumented.requests:
        await asyncio.sleep(0.01)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert len(ends(instrumented)) == 1


async def test_a_run_that_fails_is_over(model: teams.Client, instrumented: FakeOpenAI) -> None:
    instrumented.stop()
    with pytest.raises(RuntimeError, match="Connection error"):
        await teams.round_robin(model).run(task="hi")


async def test_a_handoff_to_an_agent_that_does_not_exist_fails_as_without_us(
    model: teams.Client, instrumented: FakeOpenAI
) -> None:
    boss = teams.agent(model, "boss", handoffs=["nobody"])
    instrumented.script("hi", ToolCall("transfer_to_nobody"))
    with pytest.raises(RuntimeError, match="AssertionError"):
        await Swarm([boss, teams.agent(model, "other")]).run(task="hi")
    assert instrumented.agents == ["boss"]
    assert len(ends(instrumented)) == 1


async def test_a_handoff_to_nobody_ends_as_without_us(
    model: teams.Client, server: FakeOpenAI
) -> None:
    async def run() -> object:
        server.script("hi", ToolCall("transfer_to_nobody"))
        boss = teams.agent(model, "boss", handoffs=["nobody"])
        return await Swarm([boss, teams.agent(model, "other")]).run(task="hi")

    await assert_as_without_us(adapter, server, run)


async def test_a_stream_that_is_left_is_over(model: teams.Client, instrumented: FakeOpenAI) -> None:
    stream = teams.round_robin(model).run_stream(task="hi")
    async for _ in stream:
        if instrumented.requests:
            break
    await stream.aclose()
    assert len(ends(instrumented)) == 1


async def test_a_stream_is_over_with_its_last_item(
    model: teams.Client, instrumented: FakeOpenAI
) -> None:
    agent = teams.single(model)
    message = TextMessage(content="hi", source="user")
    await agent.on_messages([message], CancellationToken())
    assert instrumented.agents == ["solo"]
    assert len(ends(instrumented)) == 1


async def test_a_team_that_runs_already_is_not_disturbed(
    model: teams.Client, instrumented: FakeOpenAI
) -> None:
    instrumented.delay_s = 0.02
    team = teams.round_robin(model)
    run = asyncio.create_task(team.run(task="hi"))
    while not instrumented.requests:
        await asyncio.sleep(0.01)
    with pytest.raises(ValueError, match="already running"):
        await team.run(task="hi")
    await run
    assert instrumented.agents == ["a", "b", "c"] * 2
    assert len(ends(instrumented)) == 1


async def test_a_runtime_of_the_users_own_is_no_hindrance(
    model: teams.Client, instrumented: FakeOpenAI
) -> None:
    runtime = SingleThreadedAgentRuntime()
    runtime.start()
    pair = [
        RoundRobinGroupChat(teams.agents(model, *names), max_turns=2, runtime=runtime)
        for names in ("ab", "ac")
    ]
    instrumented.delay_s = 0.02
    await asyncio.gather(*(team.run(task="hi") for team in pair))
    await runtime.stop_when_idle()
    by_workflow: dict[str | None, list[Any]] = {}
    for request in instrumented.requests:
        by_workflow.setdefault(request.workflow, []).append(request.agent)
    assert sorted(by_workflow.values()) == [["a", "b"], ["a", "c"]]


async def test_runs_leave_nothing_behind(model: teams.Client, instrumented: FakeOpenAI) -> None:
    team = teams.nested(model)
    for _ in range(5):
        await team.run(task="hi")
    assert is_empty()
