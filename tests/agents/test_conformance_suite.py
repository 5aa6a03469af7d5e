"""The conformance suite finds what a server does otherwise; `kvflow conform`, as a user runs it."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kvflow_agents import Hint, HintError
from kvflow_agents.conform import UNREACHABLE
from kvflow_agents.conformance_suite import (
    SUITES,
    Runner,
    difference,
    filled_in,
    load_cases,
    text_of,
)
from kvflow_agents.envelope import SPEAKS, decode_envelope
from kvflow_agents.expectations import Expectations
from kvflow_agents.hints import decode_body
from kvflow_agents.servers import Server

KEY = "sesame"
MAX_BODY_BYTES = 3_000_000
REQUIRED = [case for case in load_cases() if case.level == "must"]


def streamed(said: str, *, is_chat: bool, ends: bool) -> str:
    """A text as the events of a stream, in two pieces."""
    pieces = (said[:2], said[2:])
    choices = [{"delta": {"content": each}} if is_chat else {"text": each} for each in pieces]
    events = [json.dumps({"choices": [choice]}) for choice in choices]
    return "".join(f"data: {event}\n\n" for event in [*events, *["[DONE]"] * ends])


class OtherServer(ThreadingHTTPServer):
    """Another implementation of what a server must do, without a model; with faults to order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root_url = f"http://127.0.0.1:{self.server_port}"
        self.faults: set[str] = set()
        self.refused: Counter[str] = Counter()
        self.known: dict[str, Expectations] = {}
        self.ended: dict[str, int] = {}

    def hear(self, hint: Hint) -> str:
        name, forecast = hint.workflow, hint.forecast
        if forecast.seq <= self.ended.get(name, -1):
            return "accepted" if "revives the dead" in self.faults else "ended"
        if forecast.done:
            self.known.pop(name, None)
            self.ended[name] = forecast.seq
            return "accepted"
        told = self.known.setdefault(name, Expectations()).take_in(forecast)
        return "stale" if told is None else "accepted"

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/kvflow/forecast":
            if len(body) > MAX_BODY_BYTES:
                return 413, {"error": {"reason": "size"}}
            return self.forecast(body)
        if path == "/kvflow/status":
            speaks = [] if "is silent" in self.faults else [SPEAKS]
            return 200, {"speaks": speaks, "refused_hints": self.refused}
        if path == "/v1/models":
            return 200, {"data": [{"id": "m"}]}
        return self.complete(path, body)

    def forecast(self, text: bytes) -> tuple[int, Any]:
        try:
            return 200, {"outcome": self.hear(decode_body(json.loads(text)))}
        except HintError as error:
            status = 413 if error.reason == "size" else 400
            return status, {"error": {"reason": error.reason, "message": str(error)}}
        except ValueError:
            return 400, {"error": {"reason": "type"}}

    def complete(self, path: str, text: bytes) -> tuple[int, Any]:
        if not path.endswith("/completions"):
            return 404, {"error": {"reason": "unknown"}}
        body = json.loads(text)
        said = "Paris" if "kv_hints" not in body or "reacts" not in self.faults else "Rome"
        try:
            hint = decode_envelope(body.get("kv_hints", {}))
            if hint is not None:
                self.hear(hint)
        except HintError as error:
            if "fails" in self.faults:
                return 500, "failed"
            if "forgets" not in self.faults:
                self.refused[error.reason] += 1
        is_chat = path.endswith("/chat/completions")
        if body.get("stream"):
            return 200, streamed(said, is_chat=is_chat, ends="breaks off" not in self.faults)
        return 200, {"choices": [{"message": {"content": said}} if is_chat else {"text": said}]}


class _Handler(BaseHTTPRequestHandler):
    server: OtherServer

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, answer = 401, {"error": "who are you?"}
        if "hangs up" in self.server.faults and self.path.endswith("/completions"):
            self.close_connection = True
            return
        if self.headers.get("Authorization") == f"Bearer {KEY}":
            status, answer = self.server.answer(self.path, text)
        body = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def other() -> Iterator[OtherServer]:
    with OtherServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def conform(server: OtherServer, *options: str) -> Result:
    from kvflow_agents.conform import app

    arguments = ["--server", f"{server.root_url}/v1", "--key", KEY, *options]
    return CliRunner().invoke(app, arguments)


def test_another_implementation_passes_what_it_must(other: OtherServer) -> None:
    runner = Runner(Server(other.root_url, KEY))
    assert [verdict.fault for verdict in map(runner.run, REQUIRED)] == [None] * len(REQUIRED)


@pytest.mark.parametrize(
    ("fault", "case", "said"),
    [
        ("is silent", "the server says what it speaks", "speaks is [] and lacks"),
        ("revives the dead", "a workflow ends, and begins anew with a larger seq", "'ended'"),
        ("reacts", "a request may carry a forecast", "without a hint 'Paris'"),
        ("forgets", "a version that is not known is ignored", "refused by version"),
        ("breaks off", "a streamed answer is what it is without a forecast", "the answer is None"),
        ("reacts", "a streamed chat is, too", "the answer is 'Rome'"),
        ("fails", "a version that is not known is ignored", "status 500 instead of 200"),
    ],
)
def test_what_is_done_otherwise_is_found(
    other: OtherServer, fault: str, case: str, said: str
) -> None:
    other.faults.add(fault)
    runner = Runner(Server(other.root_url, KEY))
    faults = {each.name: runner.run(each).fault for each in REQUIRED}
    assert said in str(faults[case])


def test_the_command_tells_of_each_case_and_exits_0_if_nothing_required_fails(
    other: OtherServer,
) -> None:
    result = conform(other)
    assert result.exit_code == 0
    assert f"must: {len(REQUIRED)} of {len(REQUIRED)} passed" in result.stdout
    assert "FAILED (should)  receipts: a call has a receipt" in result.stdout
    assert "         step 2: status 404 instead of 200" in result.stdout


def test_a_server_that_hangs_up_has_failed_the_case(other: OtherServer) -> None:
    other.faults.add("hangs up")
    result = conform(other, "--only", "envelopes")
    assert result.exit_code == 1
    assert "step 1: no answer: RemoteDisconnected" in result.stdout


def test_it_exits_1_if_something_required_fails(other: OtherServer) -> None:
    other.faults.add("revives the dead")
    result = conform(other, "--only", "forecasts")
    assert result.exit_code == 1
    assert "FAILED (must)  forecasts: a workflow ends" in result.stdout
    assert "envelopes" not in result.stdout
    assert "status 401" in conform(other, "--key", "wrong").stdout


def test_it_exits_2_if_there_is_no_server_or_no_such_suite(other: OtherServer) -> None:
    assert conform(other, "--server", "http://127.0.0.1:1").exit_code == UNREACHABLE
    assert conform(other, "--server", "no URL").exit_code == UNREACHABLE
    assert conform(other, "--only", "everything").exit_code == 2


def test_cases_are_named_once_and_of_known_suites() -> None:
    names = [(case.suite, case.name) for case in load_cases()]
    assert len(set(names)) == len(names)
    assert {suite for suite, _ in names} == set(SUITES)


def test_what_is_long_is_made() -> None:
    names = {"{run}": "conform-1"}
    assert filled_in({"a": [{"$repeat": ["研", 3]}, "x{run}"]}, names) == {
        "a": ["研研研", "xconform-1"]
    }
    assert len(filled_in({"$pad": ["{run}研", 40]}, names).encode()) == 40
    assert filled_in({"$agents": 2}, names) == {"a0": 1, "a1": 1}
    assert filled_in({"$agents": [2, 4]}, names) == {"a0xx": 1, "a1xx": 1}


def test_more_may_be_in_an_answer_than_is_wanted() -> None:
    assert difference({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}], "d": 3}) is None
    assert difference({"a": [{"b": 1}]}, {"a": [{"b": 2}]}) == (
        "the answer['a'][0]['b'] is 2 instead of 1"
    )
    assert difference({"a": 1}, {"a": True}) is not None
    assert difference({"a": 1}, "text") is not None
    assert difference({"a": []}, {"a": [1]}) is not None


@pytest.mark.parametrize("body", [None, "text", {}, {"choices": []}, {"choices": [{"text": 1}]}])
def test_what_is_no_completion_says_nothing(body: object) -> None:
    assert text_of(body) is None
