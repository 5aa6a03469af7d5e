"""A receipt in its own response, by way of a scheduler that puts it beside the first output."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from kvflow_agents.errors import HintError
from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import RECEIPT_FIELD, Hint, encode_request
from kvflow_sglang.receipt_header import HEADER, ReceiptHeader, Wanted, ask

PARAMS = {"custom_params": encode_request(Hint("w", Forecast(3, {"b": 1}), agent="a"))}
RECEIPT = '{"seq": 3}'


class Server:
    """Answers requests that all have the same sampling parameters, in batches of two."""

    def __init__(self, params: Any, refusal: HintError | None = None) -> None:
        self._refusal = refusal
        self.wanted = Wanted()
        self.asked: list[int] = []
        self._params = params
        app = Starlette(routes=[Route("/", self._answer)])
        app.add_middleware(ReceiptHeader, wanted=self.wanted)
        self.client = TestClient(app)

    async def _answer(self, request: Request) -> PlainTextResponse:
        obj = SimpleNamespace(sampling_params=self._params)
        ask(request, obj, self.wanted, self._refusal)
        if obj.sampling_params is not self._params:
            number = obj.sampling_params["custom_params"][RECEIPT_FIELD]
            self.asked.append(number)
            # The other request of the batch has no receipt.
            beside: dict[str, Any] = {
                RECEIPT_FIELD: [[None, None], [(number, RECEIPT)]],
                "else": [[1, 2], [3]],
            }
            # A sample of the same request, later.
            beside[RECEIPT_FIELD][1].append((number, '{"seq": 4}'))
            for index, rest in enumerate([[1, 2], [3]]):
                left = self.wanted.take(beside, index)
                assert {name: said[index] for name, said in left.items()} == {"else": rest}
        return PlainTextResponse("hello")


def test_the_receipt_comes_with_its_own_response_alone() -> None:
    server = Server(PARAMS)
    for _ in range(2):
        answer = server.client.get("/", headers={HEADER: "yes"})
        assert (answer.text, answer.headers[HEADER]) == ("hello", RECEIPT)
    assert len(set(server.asked)) == 2
    assert RECEIPT_FIELD not in PARAMS["custom_params"], "the client's own parameters stay"


@pytest.mark.parametrize("params", [None, [PARAMS], {}, {"custom_params": {"other": 5}}])
def test_what_has_no_hint_has_no_receipt(params: Any) -> None:
    server = Server(params)
    answer = server.client.get("/", headers={HEADER: "yes"})
    assert (answer.text, HEADER in answer.headers, server.asked) == ("hello", False, [])


def test_a_refused_hint_is_told_with_its_reason() -> None:
    server = Server({}, HintError("name", "agent: 流れ\n" + 1000 * "x"))
    receipt = json.loads(server.client.get("/", headers={HEADER: "yes"}).headers[HEADER])
    assert (receipt["hint"], receipt["reason"]) == ("refused", "name")
    assert receipt["message"].startswith("agent: 流れ\nxxx")
    assert HEADER not in server.client.get("/").headers


def test_who_does_not_ask_gets_none_and_asks_nothing_of_the_scheduler() -> None:
    server = Server(PARAMS)
    assert HEADER not in server.client.get("/").headers
    assert server.asked == []


def test_a_receipt_that_comes_after_its_response_is_dropped() -> None:
    wanted = Wanted()
    number = wanted.begin()
    wanted.end(number)
    late = {RECEIPT_FIELD: [[(number, RECEIPT)]]}
    assert wanted.take(late, 0) == {}
    assert wanted.found(number) is None
