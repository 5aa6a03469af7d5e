"""The carrier on the real OpenAI SDK, against a real server on this machine."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import openai
import pytest
from openai._base_client import AsyncAPIClient, SyncAPIClient

from kvflow_agents import App, Call, Carrier, ConfigurationError, Hint, Join, StepGraph, Workflow
from kvflow_agents.courier import FORECAST_PATH, Courier
from kvflow_agents.hints import decode_request
from kvflow_agents.refusal import Attempt, Refusals, attempt
from kvflow_agents.sdk import sdk
from kvflow_agents.servers import Server
from tests.agents.fake_server import FakeServer

MESSAGES: Any = [{"role": "user", "content": "hello"}]
HOOKS = (SyncAPIClient.__dict__["_prepare_options"], AsyncAPIClient.__dict__["_prepare_options"])


def hooks() -> tuple[object, object]:
    return (
        SyncAPIClient.__dict__["_prepare_options"],
        AsyncAPIClient.__dict__["_prepare_options"],
    )


class Scene:
    """A server, a client of it, and a run whose agent `a` is the one who calls."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        graph = StepGraph([Join(frozenset("a"), "b")])
        self.workflow = Workflow("run", App(graph), first_seq=0)
        self.workflow.plan("", ["a"])
        self.caller: Callable[[], Call | None] = lambda: Call(self.workflow, "a")
        self.carriers: list[Carrier] = []
        self.clients: list[openai.OpenAI] = []

    def carrier(self, *, is_installed: bool = True, base_url: str | None = None) -> Carrier:
        carrier = Carrier(lambda: self.caller(), [base_url or self.server.base_url])
        self.carriers.append(carrier)
        if is_installed:
            carrier.install()
        return carrier

    def client(self, **options: Any) -> openai.OpenAI:
        client = openai.OpenAI(base_url=self.server.base_url, api_key="key", **options)
        self.clients.append(client)
        return client

    def chat(self, client: openai.OpenAI | None = None, **options: Any) -> Any:
        client = client or self.client()
        return client.chat.completions.create(model="m", messages=MESSAGES, **options)

    def close(self) -> None:
        for carrier in self.carriers:
            carrier.uninstall()
        for client in self.clients:
            client.close()


@pytest.fixture
def scene(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(SyncAPIClient, "_calculate_retry_timeout", lambda *_, **__: 0.0)
    monkeypatch.setattr(AsyncAPIClient, "_calculate_retry_timeout", lambda *_, **__: 0.0)
    scene = Scene(server)
    yield scene
    scene.close()
    assert hooks() == HOOKS


def hinted_by(server: FakeServer) -> list[tuple[str | None, int]]:
    """Who the requests say has called, and with which seq."""
    hints = [decode_request(request.params) for request in server.requests]
    return [(hint.agent, hint.forecast.seq) for hint in hints if hint is not None]


def test_a_chat_completion_carries_the_callers_hint(scene: Scene) -> None:
    carrier = scene.carrier()
    assert scene.chat().choices[0].message.content == "ok"
    (request,) = scene.server.requests
    assert request.path == "/v1/chat/completions"
    assert request.params == {
        "kvflow": {
            "v": 1,
            "workflow": "run",
            "seq": 1,
            "app": scene.workflow.app.name,
            "agent": "a",
        },
        "kvflow_steps": {"a": 0, "b": 1},
    }
    assert {**request.body, "custom_params": 0} == {
        "model": "m",
        "messages": MESSAGES,
        "custom_params": 0,
    }
    assert (carrier.counts.hinted, carrier.counts.retried, carrier.counts.anonymous) == (1, 0, 0)
    assert carrier.failsafe.errors == 0


def test_a_text_completion_carries_a_hint(scene: Scene) -> None:
    scene.carrier()
    scene.client().completions.create(model="m", prompt="hello")
    assert hinted_by(scene.server) == [("a", 1)]


def test_a_stream_carries_a_hint(scene: Scene) -> None:
    scene.carrier()
    chunks = list(scene.chat(stream=True))
    assert chunks[0].choices[0].delta.content == "ok"
    assert hinted_by(scene.server) == [("a", 1)]


def test_raw_and_streamed_responses_carry_a_hint(scene: Scene) -> None:
    scene.carrier()
    completions = scene.client().chat.completions
    raw = completions.with_raw_response.create(model="m", messages=MESSAGES)
    assert raw.parse().choices[0].message.content == "ok"
    with completions.with_streaming_response.create(model="m", messages=MESSAGES) as response:
        response.read()
    assert hinted_by(scene.server) == [("a", 1), ("a", 2)]


def test_a_client_with_options_carries_a_hint(scene: Scene) -> None:
    scene.carrier()
    scene.chat(scene.client().with_options(timeout=5, max_retries=0))
    assert hinted_by(scene.server) == [("a", 1)]


async def test_async_calls_and_streams_carry_a_hint(scene: Scene) -> None:
    scene.carrier()
    async with openai.AsyncOpenAI(base_url=scene.server.base_url, api_key="key") as client:
        await client.chat.completions.create(model="m", messages=MESSAGES)
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        assert [chunk.id async for chunk in stream] == ["x"]
        raw = await client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
        assert raw.parse().choices[0].message.content == "ok"
    assert hinted_by(scene.server) == [("a", 1), ("a", 2), ("a", 3)]


def test_a_client_made_before_install_carries_hints_until_uninstall(scene: Scene) -> None:
    client = scene.client()
    scene.chat(client)
    carrier = scene.carrier()
    scene.chat(client)
    scene.chat(scene.client())
    carrier.uninstall()
    scene.chat(client)
    assert [request.params is not None for request in scene.server.requests] == [
        False,
        True,
        True,
        False,
    ]


def test_the_users_own_fields_and_params_stay(scene: Scene) -> None:
    scene.carrier()
    mine = {"top_k": 5, "custom_params": {"mine": [1]}}
    scene.chat(extra_body=mine)
    (request,) = scene.server.requests
    assert request.body["top_k"] == 5
    assert request.params["mine"] == [1]
    assert hinted_by(scene.server) == [("a", 1)]
    assert mine == {"top_k": 5, "custom_params": {"mine": [1]}}


def test_params_that_the_user_puts_in_the_body_itself_stay(scene: Scene) -> None:
    scene.carrier()
    body = {"model": "m", "messages": MESSAGES, "custom_params": {"mine": 1}}
    scene.client().post("/chat/completions", cast_to=object, body=body)
    assert scene.server.requests[0].params["mine"] == 1
    assert hinted_by(scene.server) == [("a", 1)]


@pytest.mark.parametrize("has_extra_body", [True, False])
def test_a_hint_that_the_user_gives_wins(scene: Scene, has_extra_body: bool) -> None:
    carrier = scene.carrier()
    own = {"custom_params": {"kvflow": {"v": 1, "workflow": "mine", "seq": 1}}}
    if has_extra_body:
        scene.chat(extra_body=own)
    else:
        body = {"model": "m", "messages": MESSAGES, **own}
        scene.client().post("/chat/completions", cast_to=object, body=body)
    assert scene.server.requests[0].params == own["custom_params"]
    assert carrier.counts.hinted == 0


@pytest.mark.parametrize("custom_params", [None, {}])
def test_empty_params_of_the_user_are_filled(scene: Scene, custom_params: object) -> None:
    scene.carrier()
    scene.chat(extra_body={"custom_params": custom_params})
    assert hinted_by(scene.server) == [("a", 1)]


def test_params_that_take_no_field_go_as_they_are(scene: Scene) -> None:
    carrier = scene.carrier()
    scene.chat(extra_body={"custom_params": [1, 2]})
    assert scene.server.requests[0].params == [1, 2]
    assert carrier.counts.hinted == carrier.failsafe.errors == 0


def test_a_retried_call_gets_a_newer_hint_and_counts_once(scene: Scene) -> None:
    carrier = scene.carrier()
    scene.server.statuses.extend([500, 503])
    scene.chat(scene.client(max_retries=2))
    assert hinted_by(scene.server) == [("a", 1), ("a", 2), ("a", 3)]
    assert (carrier.counts.hinted, carrier.counts.retried) == (1, 2)


async def test_a_retried_async_call_gets_a_newer_hint_and_counts_once(scene: Scene) -> None:
    carrier = scene.carrier()
    scene.server.statuses.append(500)
    async with openai.AsyncOpenAI(base_url=scene.server.base_url, api_key="key") as client:
        await client.chat.completions.create(model="m", messages=MESSAGES)
    assert hinted_by(scene.server) == [("a", 1), ("a", 2)]
    assert (carrier.counts.hinted, carrier.counts.retried) == (1, 1)


def test_a_server_that_is_not_allowed_gets_no_hint(scene: Scene) -> None:
    carrier = scene.carrier(base_url="http://elsewhere.example/v1")
    scene.chat()
    assert scene.server.requests[0].body == {"model": "m", "messages": MESSAGES}
    assert (carrier.counts.hinted, carrier.counts.anonymous) == (0, 0)


def test_a_call_to_a_whole_url_is_not_held_to_go_to_the_clients_server(scene: Scene) -> None:
    scene.carrier(base_url="http://allowed.example/v1")
    body = {"model": "m", "messages": MESSAGES}
    with openai.OpenAI(base_url="http://allowed.example/v1", api_key="key") as client:
        client.post(f"{scene.server.base_url}/chat/completions", cast_to=object, body=body)
    assert scene.server.requests[0].body == body


def test_other_endpoints_get_no_hint(scene: Scene) -> None:
    carrier = scene.carrier()
    client = scene.client()
    client.embeddings.create(model="m", input="hello", encoding_format="float")
    client.post("/chat/completions/x", cast_to=object, body={"metadata": {}})
    client.get("/chat/completions", cast_to=object)
    first, second, third = (request.body for request in scene.server.requests)
    assert first == {"model": "m", "input": "hello", "encoding_format": "float"}
    assert second == {"metadata": {}}
    assert third is None
    assert (carrier.counts.hinted, carrier.counts.anonymous) == (0, 0)


def test_a_call_without_a_json_object_goes_as_it_is(scene: Scene) -> None:
    carrier = scene.carrier()
    client = scene.client()
    client.post("/chat/completions", cast_to=object)
    client.post("/chat/completions", cast_to=object, body=["raw"])
    assert [request.body for request in scene.server.requests] == [None, ["raw"]]
    assert (carrier.counts.hinted, carrier.failsafe.errors) == (0, 0)


@pytest.mark.skipif(
    "content" not in inspect.signature(SyncAPIClient.post).parameters,
    reason="this SDK sends no raw content",
)
def test_a_call_with_raw_content_goes_as_it_is(scene: Scene) -> None:
    scene.carrier()
    scene.client().post("/chat/completions", cast_to=object, content=b'{"raw": 1}')
    assert scene.server.requests[0].body == {"raw": 1}


def test_calls_that_no_agent_makes_are_counted_and_go_unhinted(scene: Scene) -> None:
    carrier = scene.carrier()
    scene.caller = lambda: None
    scene.chat()
    assert scene.server.requests[0].body == {"model": "m", "messages": MESSAGES}
    assert (carrier.counts.hinted, carrier.counts.anonymous) == (0, 1)


def test_an_error_in_our_code_lets_the_call_go_unhinted_and_is_logged_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    carrier = scene.carrier()

    def fail() -> Call | None:
        raise RuntimeError("broken")

    scene.caller = fail
    with caplog.at_level(logging.WARNING, "kvflow_agents"):
        assert scene.chat().choices[0].message.content == "ok"
        assert scene.chat().choices[0].message.content == "ok"
    assert [request.params for request in scene.server.requests] == [None, None]
    assert carrier.failsafe.errors == 2
    (record,) = caplog.records
    assert "a model call goes on without kvflow" in record.getMessage()
    assert record.exc_info and "broken" in str(record.exc_info[1])


def test_uninstall_restores_the_very_functions(scene: Scene) -> None:
    carrier = scene.carrier()
    assert hooks()[0] is not HOOKS[0]
    assert hooks()[1] is not HOOKS[1]
    carrier.uninstall()
    assert hooks()[0] is HOOKS[0]
    assert hooks()[1] is HOOKS[1]


def test_installing_or_uninstalling_once_more_changes_nothing(scene: Scene) -> None:
    carrier = scene.carrier()
    changed = hooks()
    carrier.install()
    assert hooks() == changed
    scene.chat()
    assert hinted_by(scene.server) == [("a", 1)]
    carrier.uninstall()
    carrier.uninstall()
    assert hooks() == HOOKS
    carrier.install()
    scene.chat()
    assert hinted_by(scene.server) == [("a", 1), ("a", 2)]


def test_of_two_carriers_the_first_that_knows_the_caller_hints(scene: Scene) -> None:
    first, second = scene.carrier(), scene.carrier()
    scene.chat()
    assert (first.counts.hinted, second.counts.hinted) == (1, 0)
    first.uninstall()
    assert hooks() != HOOKS
    scene.chat()
    assert (first.counts.hinted, second.counts.hinted) == (1, 1)
    assert hinted_by(scene.server) == [("a", 1), ("a", 2)]


def test_a_carrier_that_fails_or_knows_nobody_leaves_the_call_to_the_next(scene: Scene) -> None:
    scene.carrier()
    second = Carrier(lambda: Call(scene.workflow, "b"), [scene.server.base_url])
    scene.carriers.append(second)
    second.install()
    scene.caller = lambda: None
    scene.chat()

    def fail() -> Call | None:
        raise RuntimeError("broken")

    scene.caller = fail
    scene.chat()
    assert [agent for agent, _ in hinted_by(scene.server)] == ["b", "b"]


def test_requests_at_once_get_a_seq_each(scene: Scene) -> None:
    carrier = scene.carrier()
    client = scene.client()
    threads = [threading.Thread(target=scene.chat, args=(client,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(hinted_by(scene.server)) == [("a", seq) for seq in range(1, 17)]
    assert carrier.counts.hinted == 16


async def test_async_requests_at_once_get_a_seq_each(scene: Scene) -> None:
    scene.carrier()
    async with openai.AsyncOpenAI(base_url=scene.server.base_url, api_key="key") as client:
        calls = [client.chat.completions.create(model="m", messages=MESSAGES) for _ in range(16)]
        await asyncio.gather(*calls)
    assert sorted(hinted_by(scene.server)) == [("a", seq) for seq in range(1, 17)]


def test_an_announcement_goes_to_the_servers_that_have_seen_the_workflow(scene: Scene) -> None:
    carrier = scene.carrier()
    carrier.announce(scene.workflow.end(resumable=True))  # nobody has seen it yet
    assert carrier.courier.flush(10)
    assert scene.server.requests == []
    scene.chat()
    hint = scene.workflow.end(resumable=False)
    carrier.announce(hint)
    assert carrier.courier.flush(10)
    _, announced = scene.server.requests
    assert announced.path == FORECAST_PATH
    assert announced.headers["Authorization"] == "Bearer key"
    assert announced.body["done"] is True
    carrier.announce(hint)  # a workflow that is done is forgotten
    assert carrier.courier.flush(10)
    assert len(scene.server.requests) == 2


def test_a_call_to_another_server_during_an_announcement_disturbs_nothing(scene: Scene) -> None:
    other = openai.OpenAI(base_url=f"{scene.server.root_url}/other/v1", api_key="key")
    scene.clients.append(other)

    class BusyCourier(Courier):
        def send(self, server: Server, hint: Hint) -> None:
            scene.chat(other)
            super().send(server, hint)

    carrier = Carrier(lambda: scene.caller(), [scene.server.root_url], courier=BusyCourier())
    scene.carriers.append(carrier)
    carrier.install()
    scene.chat()
    carrier.announce(scene.workflow.end(resumable=True))
    assert carrier.courier.flush(10)
    assert [request.path for request in scene.server.requests] == [
        "/v1/chat/completions",
        "/other/v1/chat/completions",
        FORECAST_PATH,
    ]


def test_what_a_carrier_remembers_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvflow_agents.carrier.MAX_REMEMBERED", 2)
    carrier = scene.carrier()
    client = scene.client()
    runs = [Workflow(f"run {number}", App(StepGraph()), first_seq=0) for number in range(4)]
    for run in runs:
        scene.caller = lambda run=run: Call(run, "a")  # type: ignore[misc]
        scene.chat(client)
    for run in runs:
        carrier.announce(run.end(resumable=False))
    assert carrier.courier.flush(10)
    assert [request.body["workflow"] for request in scene.server.requests[4:]] == [
        "run 2",
        "run 3",
    ]


def test_without_the_sdk_install_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai._base_client", None)
    carrier = Carrier(lambda: None, ["http://localhost/v1"])
    with pytest.raises(ConfigurationError, match="pip install openai"):
        carrier.install()
    carrier.uninstall()


def test_without_servers_a_carrier_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KVFLOW_BASE_URLS", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="KVFLOW_BASE_URLS"):
        Carrier(lambda: None)


@pytest.mark.parametrize("status", [400, 413, 422, 431])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_refused_for_its_hint_is_made_again_without(
    scene: Scene, status: int, stream: bool
) -> None:
    scene.carrier()
    scene.server.statuses.append(status)
    answer = scene.chat(stream=stream)
    assert list(answer) if stream else answer.choices[0].message.content == "ok"
    scene.chat()
    assert [request.params is not None for request in scene.server.requests] == [
        *(True, False),
        False,  # and from now on without
    ]


async def test_an_async_call_that_is_refused_for_its_hint_is_made_again(scene: Scene) -> None:
    scene.carrier()
    scene.server.statuses.append(422)
    async with openai.AsyncOpenAI(base_url=scene.server.base_url, api_key="key") as client:
        answer = await client.chat.completions.create(model="m", messages=MESSAGES)
    assert answer.choices[0].message.content == "ok"
    assert [request.params is not None for request in scene.server.requests] == [True, False]


def test_a_call_that_is_bad_without_a_hint_too_fails_as_ever(scene: Scene) -> None:
    scene.carrier()
    scene.server.statuses.extend([400, 400])
    with pytest.raises(openai.BadRequestError):
        scene.chat()
    scene.chat()
    assert [request.params is not None for request in scene.server.requests] == [
        *(True, False),
        True,  # the hint was not to blame
    ]


def test_a_call_without_a_hint_is_not_made_again(scene: Scene) -> None:
    scene.carrier()
    scene.caller = lambda: None
    scene.server.statuses.append(400)
    with pytest.raises(openai.BadRequestError):
        scene.chat()
    assert len(scene.server.requests) == 1


class Traced:
    """A method as tracers wrap it: it knows its instance only if it is bound as methods are."""

    def __init__(self, method: Any) -> None:
        self.__wrapped__ = method

    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return lambda client, *args, **kwargs: self._trace(client, *args, **kwargs)
        return partial(self._trace, client)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._trace(None, *args, **kwargs)

    def _trace(self, client: Any, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(client, *args, **kwargs)


@pytest.mark.parametrize("is_traced_first", [True, False])
async def test_a_traced_call_that_is_refused_for_its_hint_is_made_again_without(
    scene: Scene, is_traced_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trace() -> None:
        for owner in (openai.OpenAI, openai.AsyncOpenAI):
            monkeypatch.setattr(owner, "request", Traced(owner.request), raising=False)

    if is_traced_first:
        trace()
    carrier = scene.carrier()
    if not is_traced_first:
        trace()
    scene.server.statuses.extend([400, 200, 422])
    assert scene.chat().choices[0].message.content == "ok"
    monkeypatch.setattr(sdk, "_refusals", Refusals())
    async with openai.AsyncOpenAI(base_url=scene.server.base_url, api_key="key") as client:
        await client.chat.completions.create(model="m", messages=MESSAGES)
    assert [request.params is not None for request in scene.server.requests] == [
        *(True, False),
        *(True, False),
    ]
    assert (carrier.counts.hinted, carrier.counts.retried) == (2, 0)
    carrier.uninstall()
    monkeypatch.undo()


def test_a_call_that_could_not_be_made_again_gets_no_hint(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sdk, "_has_warned", False)
    original = SyncAPIClient.request

    class Client(openai.OpenAI):
        def request(self, *args: Any, **kwargs: Any) -> Any:
            return original(self, *args, **kwargs)

    scene.carrier()
    with Client(base_url=scene.server.base_url, api_key="key") as client:
        for _ in range(2):
            scene.chat(client)
    assert [request.params for request in scene.server.requests] == [None, None]
    [record] = caplog.records
    assert "get no hints" in record.getMessage()


def test_a_call_that_is_collected_in_another_context_has_failed_and_says_nothing() -> None:
    class Noted:
        errors = 0

        def fail(self) -> None:
            self.errors += 1

    noted, made = Noted(), Attempt()
    contextvars.copy_context().run(made.__enter__)
    made.call = noted  # type: ignore[assignment]
    made.__exit__(GeneratorExit, GeneratorExit(), None)
    assert noted.errors == 1
    assert attempt.get() is None


@pytest.mark.parametrize(
    ("listed", "level"),
    [("http://localhost:{port}/v1", "WARNING"), ("http://elsewhere.example/v1", "INFO")],
)
def test_an_agent_that_calls_a_server_which_is_not_listed_is_told_of_once(
    scene: Scene, listed: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    port = scene.server.root_url.rpartition(":")[2]
    scene.carrier(base_url=listed.format(port=port))
    client = scene.client()
    caller, scene.caller = scene.caller, lambda: None
    with caplog.at_level(logging.INFO, "kvflow_agents"):
        scene.chat(client)  # nobody's calls are nobody's business
        scene.caller = caller
        for _ in range(2):
            scene.chat(client)
    [record] = [each for each in caplog.records if each.name == "kvflow_agents"]
    assert record.levelname == level
    assert f"agent a calls {scene.server.base_url}" in record.getMessage()
    assert scene.server.requests[-1].params is None
