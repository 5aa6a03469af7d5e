"""A call's receipt in its own response, for a client that asks for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvflow_agents.errors import HintError
from kvflow_agents.hints import FIELD, RECEIPT_FIELD

HEADER = "x-kvflow-receipt"
"""Of a request: whatever it says, the client asks. Of its response: the receipt as JSON."""
_NUMBER = "kvflow.receipt"
# Of a refusal: a header has to be short.
MESSAGE_CHARS = 400


class Wanted:
    """Receipts that responses under way want, by a number that goes with the request and back.

    The scheduler puts a receipt beside the first output of its request: nobody asks or waits.
    """

    def __init__(self) -> None:
        self._numbers = count()
        self._found: dict[int, str | None] = {}

    def begin(self) -> int:
        """The number of a response that wants its receipt."""
        number = next(self._numbers)
        self._found[number] = None
        return number

    def found(self, number: int) -> str | None:
        """The receipt, as far as it is known."""
        return self._found.get(number)

    def refuse(self, number: int, error: HintError) -> None:
        """The request's hint never reaches a scheduler: that is its receipt."""
        said = {"hint": "refused", "reason": error.reason, "message": str(error)[:MESSAGE_CHARS]}
        self._found[number] = json.dumps(said)

    def end(self, number: int) -> None:
        """The response has gone."""
        del self._found[number]

    def take(self, beside_outputs: Mapping[str, Any], index: int) -> Mapping[str, Any]:
        """Take the receipts from what came beside one request's output; all else is left."""
        if RECEIPT_FIELD not in beside_outputs:
            return beside_outputs
        # Of a request without one there is None for each token.
        for number, receipt in filter(None, beside_outputs[RECEIPT_FIELD][index]):
            # Of several prompts, or samples, the first one's.
            if self._found.get(number, receipt) is None:
                self._found[number] = receipt
        return {name: said for name, said in beside_outputs.items() if name != RECEIPT_FIELD}


class ReceiptHeader:
    """ASGI middleware: adds to a response what became of its request's hint, as far as known.

    When a response begins, streamed or not, its prompt has been computed, so all is known.
    """

    def __init__(self, app: ASGIApp, *, wanted: Wanted) -> None:
        self._app = app
        self._wanted = wanted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or HEADER not in Headers(scope=scope):
            await self._app(scope, receive, send)
            return
        number = scope[_NUMBER] = self._wanted.begin()

        async def send_with_receipt(message: Message) -> None:
            if message["type"] == "http.response.start":
                receipt = self._wanted.found(number)
                if receipt is not None:
                    MutableHeaders(scope=message)[HEADER] = receipt
            await send(message)

        try:
            await self._app(scope, receive, send_with_receipt)
        finally:
            self._wanted.end(number)


def ask(
    http_request: Any, generate_request: Any, wanted: Wanted, refusal: HintError | None = None
) -> None:
    """Let a request whose client asks, and whose hint has been checked, carry its number.

    `refusal`: why it has no hint any more.
    """
    number = getattr(http_request, "scope", {}).get(_NUMBER)
    if number is None:
        return
    if refusal is not None:
        wanted.refuse(number, refusal)
    params = getattr(generate_request, "sampling_params", None)
    if not isinstance(params, Mapping):
        return
    custom_params = params.get("custom_params")
    if isinstance(custom_params, Mapping) and FIELD in custom_params:
        asking = {**custom_params, RECEIPT_FIELD: number}
        generate_request.sampling_params = {**params, "custom_params": asking}
