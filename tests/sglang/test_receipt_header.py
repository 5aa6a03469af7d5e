"""The receipt in a response: who gets one, and what happens when none comes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint, encode_request
from kvflow_sglang import receipt_header
from kvflow_sglang.receipt_header import HEADER, ReceiptHeader, note

PARAMS = {"custom_params": encode_request(Hint("w", Forecast(3, {"b": 1}), agent="a"))}


def client_of(params: Any) -> TestClient:
    """Of a server whose every request has these sampling parameters."""

    async def answer(request: Request) -> PlainTextResponse:
        note(request, SimpleNamespace(sampling_params=params))
        return PlainTextResponse("hello")

    app = Starlette(routes=[Route("/", answer)])
    app.add_middleware(ReceiptHeader)
    return TestClient(app)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the schedulers were asked; they know the call of sequence number 3."""
    questions: list[Any] = []

    async def ask(name: str, message: Any) -> list[Any]:
        questions.append(message)
        return [SimpleNamespace(json=None), SimpleNamespace(json='{"seq": 3}')]

    monkeypatch.setattr(receipt_header, "ask_schedulers", ask)
    return questions


def test_the_receipt_of_the_replica_that_knows_the_call(asked: list[Any]) -> None:
    answer = client_of(PARAMS).get("/", headers={HEADER: "yes"})
    assert (answer.text, answer.headers[HEADER]) == ("hello", '{"seq": 3}')
    assert [(one.workflow, one.agent, one.seq) for one in asked] == [("w", "a", 3)]


@pytest.mark.parametrize("params", [None, [PARAMS], {}, {"custom_params": {"kvflow": 5}}])
def test_what_has_no_hint_has_no_receipt(asked: list[Any], params: Any) -> None:
    answer = client_of(params).get("/", headers={HEADER: "yes"})
    assert (answer.text, HEADER in answer.headers, asked) == ("hello", False, [])


def test_who_does_not_ask_costs_nothing(asked: list[Any]) -> None:
    assert HEADER not in client_of(PARAMS).get("/").headers
    assert asked == []


def test_a_scheduler_that_does_not_answer_holds_no_response_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang(name: str, message: Any) -> list[Any]:
        await asyncio.Event().wait()
        raise AssertionError("an event that nobody sets")

    monkeypatch.setattr(receipt_header, "ask_schedulers", hang)
    monkeypatch.setattr(receipt_header, "PATIENCE_S", 0.01)
    answer = client_of(PARAMS).get("/", headers={HEADER: "yes"})
    assert (answer.text, HEADER in answer.headers) == ("hello", False)
