"""For every pattern that Google ADK has: who calls, and who was expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvflow_google_adk._adapter import adapter
from tests.adapter_contract import assert_expected, assert_foreseen
from tests.adapter_fixtures import assert_as_without_us, deliver
from tests.fake_openai import FakeOpenAI, ToolCall
from tests.google_adk import trees
from tests.google_adk.trees import mark, transfer

every_way = pytest.mark.parametrize("way", trees.WAYS)


@every_way
async def test_a_sequence_is_known_before_it_runs(way: str, instrumented: FakeOpenAI) -> None:
    made = trees.runner(trees.line(instrumented, ["a", "b", "c"]))
    await trees.run(made, way=way)
    assert instrumented.agents == ["a", "b", "c"]
    assert bool(instrumented.requests[0].body.get("stream")) == (way == "streaming")
    assert_foreseen(instrumented.requests)
    assert instrumented.requests[1].steps == {"a": None, "b": 0, "c": 1}


@every_way
@pytest.mark.parametrize("build", [trees.branches, trees.graph])
async def test_agents_at_once_are_planned_before_either_calls(
    build: Callable[[FakeOpenAI], Any], way: str, instrumented: FakeOpenAI
) -> None:
    instrumented.delay_s = 0.05
    await trees.run(trees.runner(build(instrumented)), way=way)
    calls = {request.agent: request.steps for request in instrumented.requests}
    assert calls == {
        "plan": {"plan": 0, "left": 1, "right": 1, "merge": 2},
        "left": {"left": 0, "right": 0, "merge": 1, "plan": None},
        "right": {"left": 0, "right": 0, "merge": 1, "plan": None},
        "merge": {"merge": 0, "plan": None, "left": None, "right": None},
    }


async def test_a_loop_is_a_cycle(instrumented: FakeOpenAI) -> None:
    await trees.run(trees.runner(trees.loop(instrumented)))
    assert instrumented.agents == ["write", "review"] * 2
    assert_foreseen(instrumented.requests)


@every_way
async def test_whom_an_agent_can_hand_over_to_is_expected_next(
    way: str, instrumented: FakeOpenAI
) -> None:
    instrumented.script(mark("desk"), transfer("travel"))
    await trees.run(trees.runner(trees.desk(instrumented)), way=way)
    assert instrumented.agents == ["desk", "travel"]
    assert instrumented.requests[0].steps == {"desk": 0, "travel": 1, "history": 1}
    # It may hand over to its peer or back.
    assert instrumented.requests[1].steps == {"desk": 1, "travel": 0, "history": 1}


async def test_a_transfer_to_nobody_ends_as_without_us(server: FakeOpenAI) -> None:
    async def run() -> object:
        server.script(mark("desk"), transfer("nobody"), transfer("history"))
        return await trees.run(trees.runner(trees.desk(server)))

    await assert_as_without_us(adapter, server, run)
    assert server.agents[0] == "desk"
    deliver(adapter)
    [end] = server.forecasts
    assert set(end.forecast.steps.values()) == {None}


@every_way
async def test_an_agent_that_is_a_tool_is_inside_the_one_that_uses_it(
    way: str, instrumented: FakeOpenAI
) -> None:
    made = trees.runner(trees.boss(instrumented))
    for _ in range(2):
        instrumented.clear()
        instrumented.script(mark("boss"), ToolCall("helper", {"request": "why?"}), "done")
        await trees.run(made, way=way)
        assert instrumented.agents == ["boss", "boss/helper", "boss"]
    assert [request.steps["boss"] for request in instrumented.requests] == [0, 0, 0]
    assert_expected(instrumented.requests)  # it has been learned


async def test_what_takes_the_events_of_a_run_is_not_in_it(instrumented: FakeOpenAI) -> None:
    from google.genai import types

    made = trees.runner(trees.agent(instrumented, "a"))
    await made.session_service.create_session(app_name="app", user_id="me", session_id="s")
    message = types.Content(role="user", parts=[types.Part(text="hi")])
    model = trees.agent(instrumented, "me").model
    async for _ in made.run_async(user_id="me", session_id="s", new_message=message):
        await model.llm_client.acompletion(  # type: ignore[union-attr,unused-ignore]
            "openai/fake",
            [{"role": "user", "content": "hi"}],
            None,
            api_base=instrumented.base_url,
            api_key="key",
        )
    assert instrumented.agents == ["a", None]


async def test_a_session_goes_on_under_its_name_until_its_runner_is_closed(
    instrumented: FakeOpenAI,
) -> None:
    made = trees.runner(trees.agent(instrumented, "a"))
    await made.session_service.create_session(app_name="app", user_id="me", session_id="talk")
    for _ in range(2):
        await trees.run(made, session="talk")
    [name] = {request.workflow for request in instrumented.requests}
    assert name is not None and name.startswith("talk@") and "me" not in name
    await made.close()
    deliver(adapter)
    assert [end.forecast.done for end in instrumented.forecasts] == [False, False, True]


async def test_each_user_of_each_app_has_sessions_of_its_own(instrumented: FakeOpenAI) -> None:
    owners = [("app", "me"), ("app", "you"), ("other", "me")]
    made = {app: trees.runner(trees.agent(instrumented, "a"), app) for app in ("app", "other")}
    for app, user in owners:
        await made[app].session_service.create_session(
            app_name=app, user_id=user, session_id="default"
        )
        await trees.run(made[app], session="default", user=user)
    workflows = [request.workflow for request in instrumented.requests]
    assert len(set(workflows)) == len(owners)
    deliver(adapter)
    instrumented.forecasts.clear()
    await made["other"].close()
    deliver(adapter)
    assert [each.workflow for each in instrumented.forecasts] == [workflows[-1]]


async def test_a_run_that_fails_or_is_left_is_over(instrumented: FakeOpenAI) -> None:
    from google.genai import types

    made = trees.runner(trees.line(instrumented, ["a", "b"]))
    message = types.Content(role="user", parts=[types.Part(text="hi")])
    with pytest.raises(Exception, match="[Ss]ession"):
        async for _ in made.run_async(user_id="me", session_id="none", new_message=message):
            pass
    await made.session_service.create_session(app_name="app", user_id="me", session_id="s")
    stream = made.run_async(user_id="me", session_id="s", new_message=message)
    async for _ in stream:
        break
    await stream.aclose()
    assert instrumented.agents == ["a"]
    deliver(adapter)
    [end] = instrumented.forecasts
    assert end.forecast.steps == {"a": None}
