"""Servers are asked which dialect they speak: in the background, again while they are not ready."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest

from kvflow_agents import App, Call, Carrier, Join, StepGraph, Workflow
from kvflow_agents.call_records import call_records
from kvflow_agents.carrier import CarrierCounts
from kvflow_agents.conversations import Conversations
from kvflow_agents.inquiry import (
    LONGEST_PAUSE_S,
    MAX_ANSWER_BYTES,
    MAX_REMEMBERED,
    Inquiries,
)
from kvflow_agents.servers import Server
from tests.agents.fake_server import FakeServer

OURS = {"version": "0.1.0", "speaks": ["kvflow.forecast@1.0"], "ranks": []}
DYNAMO = {"status": "healthy", "endpoints": ["dyn://ns.backend.generate"], "instances": []}


class AskedServer(ThreadingHTTPServer):
    """Answers GET with what is ordered for a path, else 404; `is_open` holds every answer back."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.is_open = threading.Event()
        self.is_open.set()
        self.drips = False
        self.key: str | None = None
        self.is_closing = threading.Event()
        self.root_url = f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, body: object, status: int = 200) -> None:
        self.answers[path] = (
            status,
            body if isinstance(body, bytes) else json.dumps(body).encode(),
        )


class _Handler(BaseHTTPRequestHandler):
    server: AskedServer

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        self.server.is_open.wait(30)
        status, body = self.server.answers.get(self.path, (404, b"{}"))
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            status, body = 401, b"{}"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not self.server.drips:
            self.wfile.write(body)
            return
        with contextlib.suppress(OSError):  # the client has gone
            while not self.server.is_closing.wait(0.01):
                self.wfile.write(b" ")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def asked() -> Iterator[AskedServer]:
    with AskedServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.is_open.set()
        server.is_closing.set()
        server.shutdown()
        thread.join()


def answer_of(inquiries: Inquiries, server: Server) -> str | None:
    inquiries.dialect_of(server)
    inquiries.settle(30)
    return inquiries.dialect_of(server)


def test_a_kvflow_server_is_known_by_its_status_and_asked_with_the_clients_key(
    asked: AskedServer,
) -> None:
    asked.answer("/kvflow/status", OURS)
    assert answer_of(Inquiries(), Server(asked.root_url, "secret")) == "kvflow"
    assert asked.asked == [("/kvflow/status", "Bearer secret")]


def test_dynamo_is_known_by_the_endpoints_in_its_health(asked: AskedServer) -> None:
    asked.answer("/health", DYNAMO)
    assert answer_of(Inquiries(), Server(asked.root_url)) == "dynamo"
    assert asked.asked == [("/kvflow/status", None), ("/health", None)]


NONSENSE = [
    b"",
    b"OK",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"speaks": "kvflow.forecast@1.0", "endpoints": "dyn://"}',
    b'{"speaks": [["kvflow.forecast@1.0"]], "endpoints": [{"dyn://": 1}, 5]}',
    b'{"speaks": ["kvflow.forecast@2.0"], "endpoints": ["http://a"]}',
    b"null",
    json.dumps({**OURS, "padding": "x" * MAX_ANSWER_BYTES * 2}).encode(),
]


@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_no_dialect(asked: AskedServer, body: bytes) -> None:
    asked.answer("/kvflow/status", body)
    asked.answer("/health", body)
    assert answer_of(Inquiries(), Server(asked.root_url)) == "none"


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405])
def test_a_refusal_is_no_dialect_whatever_it_says(asked: AskedServer, status: int) -> None:
    asked.answer("/kvflow/status", OURS, status)
    asked.answer("/health", DYNAMO, status)
    assert answer_of(Inquiries(), Server(asked.root_url)) == "none"


class Clock:
    """A clock that stands still until it is told to go on."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


NOT_READY = {"status": "not_ready", "endpoints": []}
WITHOUT_WORKERS = {"status": "healthy", "endpoints": [], "instances": []}


@pytest.mark.parametrize(
    ("health", "status"), [(NOT_READY, 503), (WITHOUT_WORKERS, 200), (b"", 429)]
)
def test_a_frontend_of_dynamo_that_is_not_ready_is_asked_again(
    asked: AskedServer, clock: Clock, health: Any, status: int
) -> None:
    inquiries, server = Inquiries(clock=clock), Server(asked.root_url)
    asked.answer("/health", health, status)
    assert answer_of(inquiries, server) is None
    asked.answer("/health", DYNAMO)
    assert answer_of(inquiries, server) is None  # not before the pause is over
    clock.now_s += 1
    assert answer_of(inquiries, server) == "dynamo"


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_that_fails_is_asked_again(asked: AskedServer, clock: Clock, status: int) -> None:
    inquiries, server = Inquiries(clock=clock), Server(asked.root_url)
    asked.answer("/kvflow/status", b"busy", status)
    assert answer_of(inquiries, server) is None
    asked.answer("/kvflow/status", OURS)
    clock.now_s += 1
    assert answer_of(inquiries, server) == "kvflow"


def test_the_pauses_grow_to_minutes(asked: AskedServer, clock: Clock) -> None:
    inquiries, server = Inquiries(clock=clock), Server(asked.root_url)
    asked.answer("/kvflow/status", b"busy", 503)
    asked_at = []
    for second in range(1200):
        clock.now_s = float(second)
        count = len(asked.asked)
        answer_of(inquiries, server)
        if len(asked.asked) > count:
            asked_at.append(second)
    pauses = [later - before for before, later in zip(asked_at, asked_at[1:], strict=False)]
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_a_server_that_is_not_there_yet_is_asked_again(clock: Clock) -> None:
    with AskedServer() as server:
        port = server.server_port
    inquiries, client = Inquiries(clock=clock), Server(f"http://127.0.0.1:{port}")
    for _ in range(5):
        assert answer_of(inquiries, client) is None
        clock.now_s += LONGEST_PAUSE_S
    with AskedServer(port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        server.answer("/kvflow/status", OURS)
        assert answer_of(inquiries, client) == "kvflow"
        server.shutdown()
        thread.join()


def test_a_slow_server_holds_nobody_up_and_is_asked_again(asked: AskedServer, clock: Clock) -> None:
    asked.answer("/kvflow/status", OURS)
    asked.is_open.clear()
    inquiries = Inquiries(timeout_s=0.05, clock=clock)
    server = Server(asked.root_url)
    assert inquiries.dialect_of(server) is None
    assert answer_of(inquiries, server) is None
    asked.is_open.set()
    inquiries._timeout_s = 30
    clock.now_s += 1
    assert answer_of(inquiries, server) == "kvflow"


def test_an_answer_that_drips_for_ever_is_given_up(asked: AskedServer) -> None:
    asked.answer("/kvflow/status", b" " * MAX_ANSWER_BYTES)
    asked.answer("/health", b" " * MAX_ANSWER_BYTES)
    asked.drips = True
    assert answer_of(Inquiries(timeout_s=0.05), Server(asked.root_url)) is None


def test_a_server_is_asked_once(asked: AskedServer) -> None:
    asked.is_open.clear()
    inquiries = Inquiries()
    for _ in range(50):
        assert inquiries.dialect_of(Server(asked.root_url)) is None
    asked.is_open.set()
    assert answer_of(inquiries, Server(asked.root_url)) == "none"
    assert answer_of(inquiries, Server(asked.root_url)) == "none"
    assert len(asked.asked) == 2


def test_a_bad_key_spoils_nothing_for_a_good_one(asked: AskedServer) -> None:
    asked.answer("/kvflow/status", OURS)
    asked.key = "right"
    inquiries = Inquiries()
    assert answer_of(inquiries, Server(asked.root_url, "wrong")) == "none"
    assert answer_of(inquiries, Server(asked.root_url)) == "none"
    assert answer_of(inquiries, Server(asked.root_url, "right")) == "kvflow"
    assert answer_of(inquiries, Server(asked.root_url, "wrong")) == "none"


@pytest.mark.parametrize(
    "server", [Server("not a URL"), Server("http://no such host"), Server("http://[", "a\nkey")]
)
def test_what_cannot_be_asked_is_no_dialect(server: Server) -> None:
    assert answer_of(Inquiries(), server) == "none"


def test_of_so_many_servers_the_one_used_longest_ago_is_forgotten() -> None:
    inquiries = Inquiries()
    for number in range(MAX_REMEMBERED + 5):
        answer_of(inquiries, Server(f"not a URL {number}"))
    assert len(inquiries._known) == MAX_REMEMBERED
    assert inquiries.dialect_of(Server("not a URL 5")) == "none"
    assert inquiries.dialect_of(Server("not a URL 0")) is None
    inquiries.settle(30)


def session_of(call: Any) -> tuple[str | None, str | None]:
    """What a request's headers say of its session and its parent."""
    headers = {name.lower(): value for name, value in call.headers.items()}
    return headers.get("x-dynamo-session-id"), headers.get("x-dynamo-parent-session-id")


class Scene:
    """A client of a fake server whose run is hinted in a dialect."""

    def __init__(self, server: FakeServer, entry: str, patch: pytest.MonkeyPatch) -> None:
        self.inquiries = Inquiries()
        patch.setattr("kvflow_agents.carrier.inquiries", self.inquiries)
        self.server = server
        workflow = Workflow("run", App(StepGraph([Join(frozenset("a"), "b")])), first_seq=0)
        workflow.plan("", ["a"])
        self.workflow = workflow
        self.entry = f"{entry}+{server.base_url}"
        self.carrier = Carrier(lambda: Call(workflow, "a"), [self.entry])
        self.carrier.install()

    def chat(self, retries: int = 0, **options: Any) -> None:
        said = {"messages": [{"role": "user", "content": "hello"}], **options}
        base_url = self.server.base_url
        with openai.OpenAI(base_url=base_url, api_key="key", max_retries=retries) as client:
            client.chat.completions.create(model="m", **said)

    @property
    def calls(self) -> list[Any]:
        return [each for each in self.server.requests if each.path.endswith("/completions")]


@pytest.fixture
def scene(
    request: pytest.FixtureRequest, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    scene = Scene(server, request.param, monkeypatch)
    yield scene
    scene.carrier.uninstall()
    assert scene.carrier.failsafe.errors == 0


@pytest.mark.parametrize("scene", ["ask"], indirect=True)
def test_until_the_answer_is_there_nothing_is_sent(scene: Scene) -> None:
    scene.server.is_open.clear()
    caller = threading.Thread(target=scene.chat)
    caller.start()  # its question and its call both wait
    while not scene.calls:
        scene.server.has_request.wait(30)
    scene.server.is_open.set()
    caller.join()
    scene.inquiries.settle(30)
    scene.chat()  # the fake server answers everything with {}: no dialect
    assert [each.params for each in scene.calls] == [None, None]
    assert scene.carrier.counts.hinted == 0


@pytest.mark.parametrize("scene", ["ask"], indirect=True)
def test_then_the_dialect_is_that_of_the_answer(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Inquiries, "_dialect", lambda *_: "kv_hints")
    scene.chat()
    scene.inquiries.settle(30)
    scene.chat()
    before, after = scene.calls
    assert "kv_hints" not in before.body
    assert after.body["kv_hints"]["actions"][0]["payload"]["agent"] == "a"


@pytest.mark.parametrize("scene", ["dynamo"], indirect=True)
def test_dynamo_gets_sessions_and_no_forecast_of_its_own(scene: Scene) -> None:
    scene.chat()
    scene.carrier.announce(scene.workflow.end(resumable=False))
    assert scene.carrier.courier.flush(30)
    (call,) = scene.server.requests
    assert session_of(call) == ("run:a", "run")
    assert call.params is None and "nvext" not in call.body


@pytest.mark.parametrize("scene", ["dynamo", "priority", "kv_hints", "kvflow"], indirect=True)
def test_of_two_carriers_one_hints_a_request_whatever_the_dialect(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("agent_hints", "dialects"):
        monkeypatch.setattr(f"kvflow_agents.{module}.priority_of", lambda hint: len(hint.workflow))
    other = Workflow("another", App(StepGraph([Join(frozenset("a"), "b")])), first_seq=0)
    other.plan("", ["b"])
    second = Carrier(lambda: Call(other, "b"), [scene.entry])
    second.install()
    try:
        scene.server.statuses.extend([500, 200])
        scene.chat(retries=1)
    finally:
        second.uninstall()
    for call in scene.calls:
        assert "another" not in json.dumps(call.body) + json.dumps(dict(call.headers))
        said = call.body.get("nvext", {}).get("agent_hints") or call.body
        assert said.get("priority") in (None, len("run"))
    assert scene.carrier.counts == CarrierCounts(hinted=1, retried=1)
    assert second.counts == CarrierCounts()


@pytest.mark.parametrize("scene", ["dynamo", "kvflow", "kv_hints"], indirect=True)
def test_an_applications_own_actions_keep_no_forecast_away(scene: Scene) -> None:
    action = {"action_id": "1", "action_type": "kv.fetch", "action_version": "1.0", "payload": {}}
    mine = {"protocol_version": "0.1", "message_id": "mine", "actions": [action]}
    scene.chat(extra_body={"kv_hints": mine})
    (call,) = scene.calls
    assert scene.carrier.counts.hinted == 1
    assert call.body["kv_hints"]["message_id"] == "mine"
    assert call.body["kv_hints"]["actions"][0] == action
    others = [each["action_type"] for each in call.body["kv_hints"]["actions"][1:]]
    assert others == (["kvflow.forecast"] if scene.entry.startswith("kv_hints") else [])


@pytest.mark.parametrize("scene", ["dynamo"], indirect=True)
def test_dynamo_is_told_how_long_answers_get_and_that_a_conversation_goes_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvflow_agents.carrier.conversations", Conversations())
    call_records.reset()
    chance = {"a": 80}
    monkeypatch.setattr(scene.workflow.app.timing, "figures", lambda *_, **__: ({}, chance))
    history = [{"role": "user", "content": "hello"}]
    scene.server.usage = {"prompt_tokens": 9, "completion_tokens": 33, "total_tokens": 42}
    for _ in range(4):
        scene.chat(messages=history)
        history += [{"role": "assistant", "content": "ok"}, {"role": "user", "content": "on"}]
    chance["a"] = 20
    scene.chat(messages=history)
    said = [each.body.get("nvext", {}).get("agent_hints") for each in scene.calls]
    goes_on = {"speculative_prefill": True}
    assert said == [None, goes_on, goes_on, {"osl": 33, **goes_on}, {"osl": 33}]


@pytest.mark.parametrize("scene", ["dynamo"], indirect=True)
def test_an_applications_own_session_stays(scene: Scene) -> None:
    scene.chat(extra_headers={"x-dynamo-session-id": "mine"})
    (call,) = scene.server.requests
    assert session_of(call) == ("mine", None)


@pytest.mark.parametrize("scene", ["kv_hints"], indirect=True)
def test_servers_of_envelopes_are_told_of_ends(scene: Scene) -> None:
    scene.chat()
    scene.carrier.announce(scene.workflow.end(resumable=False))
    assert scene.carrier.courier.flush(30)
    assert [each.path for each in scene.server.requests] == [
        "/v1/chat/completions",
        "/kvflow/forecast",
    ]


@pytest.mark.parametrize("scene", ["kv_hints", "dynamo", "priority"], indirect=True)
def test_a_server_that_refuses_a_dialect_gets_none_any_more(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("agent_hints", "dialects"):
        monkeypatch.setattr(f"kvflow_agents.{module}.priority_of", lambda hint: 3)
    scene.server.statuses.extend([400, 200])
    scene.chat()
    scene.chat()
    hinted, plain, later = scene.calls
    assert later.body == plain.body
    assert hinted.body != plain.body
    assert session_of(plain) == session_of(later) == (None, None)


@pytest.mark.parametrize("scene", ["priority", "none"], indirect=True)
def test_what_says_nothing_changes_nothing(scene: Scene) -> None:
    scene.chat()  # nothing is learned yet of when `a` calls again
    (call,) = scene.calls
    assert set(call.body) == {"model", "messages"}
    assert scene.carrier.counts.hinted == 0
