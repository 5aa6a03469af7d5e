"""Workflows and agents of loops written by hand."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

import kvflow_agents
from kvflow_agents import ConfigurationError, loops
from kvflow_agents.forecast import Steps
from tests.adapter_contract import sdk_methods
from tests.fake_openai import FakeOpenAI


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server
        deliver()


@pytest.fixture
def client(server: FakeOpenAI) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="key", max_retries=0) as client:
        yield client


@pytest.fixture(autouse=True)
def is_clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(loops.adapter, "_apps", type(loops.adapter._apps)())
    before = sdk_methods()
    yield
    assert loops.failsafe.errors == 0
    assert not loops.adapter._users and not len(loops.adapter.runs)
    assert all(now is then for now, then in zip(sdk_methods(), before, strict=True))


def deliver() -> None:
    assert loops.adapter.subscriptions.courier.flush(10)


def ask(client: openai.OpenAI, text: str = "hi") -> str:
    answer = client.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": text}]
    )
    return str(answer.choices[0].message.content)


def turn(client: openai.OpenAI, name: str) -> str:
    with kvflow_agents.agent(name):
        return ask(client, name)


def steps(server: FakeOpenAI) -> list[Steps]:
    return [dict(request.steps) for request in server.requests]


def test_a_workflow_names_its_calls_and_ends(server: FakeOpenAI, client: openai.OpenAI) -> None:
    with kvflow_agents.workflow("ticket-7", base_urls=[server.base_url]):
        turn(client, "planner")
        ask(client)
        turn(client, "writer")
    ask(client)
    assert server.agents == ["planner", None, "writer", None]
    assert [request.workflow for request in server.requests] == ["ticket-7", None, "ticket-7", None]
    deliver()
    [end] = server.forecasts
    assert end.workflow == "ticket-7" and end.forecast.done


def test_a_resumable_workflow_expects_nobody_until_it_goes_on(
    server: FakeOpenAI, client: openai.OpenAI
) -> None:
    for _ in range(2):
        with kvflow_agents.workflow("chat", base_urls=[server.base_url], resumable=True):
            turn(client, "writer")
    deliver()
    assert [end.forecast.done for end in server.forecasts] == [False, False]
    assert [dict(end.forecast.steps) for end in server.forecasts] == [{"writer": None}] * 2
    seqs = [request.hint.forecast.seq for request in server.requests if request.hint]
    assert seqs[0] < server.forecasts[0].forecast.seq < seqs[1]


def test_the_order_of_calls_is_learned(server: FakeOpenAI, client: openai.OpenAI) -> None:
    for _ in range(2):
        server.clear()
        with kvflow_agents.workflow(base_urls=[server.base_url]):
            for name in ("planner", "writer", "critic", "writer", "critic", "editor"):
                turn(client, name)
    assert steps(server) == [
        {"planner": 0, "writer": 1, "critic": 2, "editor": 3},
        {"writer": 0, "critic": 1, "editor": 2},
        {"critic": 0, "writer": 1, "editor": 1},
        {"writer": 0, "critic": 1, "editor": 2},
        {"critic": 0, "writer": 1, "editor": 1},
        # So far nobody has followed the editor; that somebody might is not denied.
        {"editor": 0},
    ]


def test_nobody_is_written_off_in_a_first_run(server: FakeOpenAI, client: openai.OpenAI) -> None:
    with kvflow_agents.workflow(base_urls=[server.base_url]):
        for name in ("writer", "critic", "writer"):
            turn(client, name)
    assert all(None not in each.values() for each in steps(server))


def test_programs_learn_apart_unless_they_share_a_name(
    server: FakeOpenAI, client: openai.OpenAI
) -> None:
    urls = [server.base_url]
    with kvflow_agents.workflow(base_urls=urls):
        turn(client, "a")
    with kvflow_agents.workflow(base_urls=urls, app="shop"):
        turn(client, "a")
    in_another_function(server, client)
    apps = [request.hint.app for request in server.requests if request.hint]
    assert apps[1] == apps[2] and apps[0] != apps[1]


def in_another_function(server: FakeOpenAI, client: openai.OpenAI) -> None:
    with kvflow_agents.workflow(base_urls=[server.base_url], app="shop"):
        turn(client, "a")


def test_agents_inside_agents_are_paths(server: FakeOpenAI, client: openai.OpenAI) -> None:
    for _ in range(2):
        server.clear()
        with kvflow_agents.workflow(base_urls=[server.base_url]):
            with kvflow_agents.agent("team"):
                turn(client, "x")
                turn(client, "y")
                ask(client)
            turn(client, "last")
    assert server.agents == ["team/x", "team/y", "team", "last"]
    first, second = steps(server)[:2]
    assert first == {"team": 0, "team/x": 0, "team/y": 1, "last": 1}
    assert second["team/y"] == 0 and second["last"] == 1


def test_a_workflow_inside_another_is_one_of_its_own(
    server: FakeOpenAI, client: openai.OpenAI
) -> None:
    with kvflow_agents.workflow("outer", base_urls=[server.base_url]):
        with kvflow_agents.agent("a"):
            with kvflow_agents.workflow("inner", base_urls=[server.base_url]):
                turn(client, "b")
            ask(client)
    assert [(each.workflow, each.agent) for each in server.requests] == [
        ("inner", "b"),
        ("outer", "a"),
    ]


async def test_agents_at_once_are_one_step(server: FakeOpenAI) -> None:
    server.delay_s = 0.05
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="key", max_retries=0) as client:

        async def turn(name: str) -> None:
            async with kvflow_agents.agent(name):
                await client.chat.completions.create(
                    model="fake", messages=[{"role": "user", "content": "hi"}]
                )

        for _ in range(2):
            server.clear()
            async with kvflow_agents.workflow(base_urls=[server.base_url]):
                await turn("planner")
                await asyncio.gather(turn("a"), turn("b"))
                await turn("writer")
    assert steps(server)[0] == {"planner": 0, "a": 1, "b": 1, "writer": 2}
    # That the second of them runs beside the first is known only once it does.
    assert steps(server)[1] == {"a": 0, "b": 1, "writer": 1}
    assert steps(server)[2] == {"a": 0, "b": 0, "writer": 1}


def test_a_thread_is_told_which_workflow_it_works_for(
    server: FakeOpenAI, client: openai.OpenAI
) -> None:
    def work(name: str) -> None:
        with run.agent(name):
            ask(client)

    with kvflow_agents.workflow("w", base_urls=[server.base_url]) as run:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, ["a", "b"]))
            pool.submit(turn, client, "lost").result()
    assert sorted(map(str, server.agents)) == ["None", "a", "b"]


def test_an_agent_outside_any_workflow_does_nothing(
    server: FakeOpenAI, client: openai.OpenAI
) -> None:
    turn(client, "alone")
    assert server.agents == [None]


def test_an_error_in_a_turn_reaches_the_caller_and_ends_the_run(
    server: FakeOpenAI, client: openai.OpenAI
) -> None:
    with pytest.raises(LookupError, match="mine"):
        with kvflow_agents.workflow("w", base_urls=[server.base_url]):
            with kvflow_agents.agent("a"):
                ask(client)
                raise LookupError("mine")
    ask(client)
    assert server.agents == ["a", None]
    deliver()
    assert [end.forecast.done for end in server.forecasts] == [True]


def test_a_context_that_is_left_elsewhere_raises_nothing(
    server: FakeOpenAI, client: openai.OpenAI
) -> None:
    run = kvflow_agents.workflow("w", base_urls=[server.base_url])
    contextvars.copy_context().run(run.__enter__)
    run.__exit__(None, None, None)
    ask(client)
    assert server.agents == [None]


def test_workflows_at_once_share_a_carrier(server: FakeOpenAI, client: openai.OpenAI) -> None:
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        with kvflow_agents.workflow(f"w{number}", base_urls=[server.base_url]):
            barrier.wait(10)
            assert len(loops.adapter._users) == 1
            turn(client, "a")
            barrier.wait(10)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert {request.workflow for request in server.requests} == {f"w{n}" for n in range(8)}


@pytest.mark.parametrize("base_urls", [None, "http://localhost:1/v1", ["nowhere"]])
def test_without_a_usable_server_it_says_so(
    base_urls: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("KVFLOW_BASE_URLS", raising=False)
    with pytest.raises(ConfigurationError):
        with kvflow_agents.workflow(base_urls=base_urls):  # type: ignore[arg-type]
            pass


def test_the_environment_can_name_the_servers(
    server: FakeOpenAI, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVFLOW_BASE_URLS", server.base_url)
    with kvflow_agents.workflow():
        turn(client, "a")
    assert server.agents == ["a"]


def test_adapters_are_told_of_agents_to_come(server: FakeOpenAI, client: openai.OpenAI) -> None:
    for _ in range(2):
        with kvflow_agents.workflow("ticket", base_urls=[server.base_url], app="adapters"):
            for name, lora in {"planner": "plans", "writer": "style", "critic": None}.items():
                with kvflow_agents.agent(name, lora=lora):
                    ask(client)
    told = [dict(request.hint.forecast.loras) for request in server.requests if request.hint]
    assert told[0] == {"planner": "plans"}
    # The second run says beforehand what the first has shown.
    assert told[3] == {"planner": "plans", "writer": "style"}


def test_an_adapter_that_no_hint_can_hold_is_left_out(
    server: FakeOpenAI, client: openai.OpenAI
) -> None:
    with kvflow_agents.workflow("ticket", base_urls=[server.base_url]) as ticket:
        for name, lora in {"a": "", "b": "x" * 257, "c": "no\nname"}.items():
            with ticket.agent(name, lora=lora):
                ask(client)
    assert [dict(each.hint.forecast.loras) for each in server.requests if each.hint] == [{}] * 3


def test_generators_that_take_turns_leave_nobody_at_work(
    server: FakeOpenAI, client: openai.OpenAI
) -> None:
    def work(name: str) -> Iterator[str]:
        with kvflow_agents.agent(name):
            yield ask(client)

    with kvflow_agents.workflow(base_urls=[server.base_url]):
        for _ in zip(work("writer"), work("critic"), strict=True):
            pass
        ask(client)
        turn(client, "editor")
    assert server.agents[2:] == [None, "editor"]


def test_a_task_that_outlives_its_turn_is_still_that_agents(
    server: FakeOpenAI, client: openai.OpenAI
) -> None:
    with kvflow_agents.workflow(base_urls=[server.base_url]):
        with kvflow_agents.agent("planner"):
            task = contextvars.copy_context()
        turn(client, "writer")
        task.run(ask, client)
        task.run(turn, client, "critic")
    task.run(turn, client, "lost")
    assert server.agents == ["writer", "planner", "critic", None]


def test_names_may_be_anything_that_has_a_text(server: FakeOpenAI, client: openai.OpenAI) -> None:
    with kvflow_agents.workflow(42, base_urls=[server.base_url]):  # type: ignore[arg-type]
        with kvflow_agents.agent(7):  # type: ignore[arg-type]
            ask(client)
        ask(client)
    assert [(each.workflow, each.agent) for each in server.requests] == [("42", "7"), (None, None)]


def test_a_workflow_that_cannot_begin_goes_on_without(
    server: FakeOpenAI, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("ours")

    with monkeypatch.context() as patch:
        patch.setattr(loops.adapter.runs, "begin", fail)
        with kvflow_agents.workflow(base_urls=[server.base_url]) as run:
            turn(client, "a")
            with run.agent("b"):
                ask(client)
    assert server.agents == [None, None]
    assert loops.failsafe.errors == 1
    loops.failsafe.errors = 0
