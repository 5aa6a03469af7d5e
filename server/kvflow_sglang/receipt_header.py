"""A call's receipt in its own response, for a client that asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvflow_agents.errors import HintError
from kvflow_agents.hints import decode_caller
from kvflow_sglang.compat import ask_schedulers
from kvflow_sglang.messages import ReceiptsRequest

HEADER = "x-kvflow-receipt"
"""Of a request: whatever it says, the client asks. Of its response: the receipt as JSON."""
# A scheduler answers between two passes; a response is not held up for one that does not.
PATIENCE_S = 2.0
_CALLS = "kvflow.calls"


class ReceiptHeader:
    """ASGI middleware: adds to a response what became of its request's hint, as far as known.

    When a response begins, streamed or not, its prompt has been computed, so all is known.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or HEADER not in Headers(scope=scope):
            await self._app(scope, receive, send)
            return
        # Filled in by `note`; what lies between may copy the scope, but not the list.
        calls: list[ReceiptsRequest] = []
        scope[_CALLS] = calls

        async def send_with_receipt(message: Message) -> None:
            if message["type"] == "http.response.start" and calls:
                receipt = await _receipt_of(calls[0])
                if receipt is not None:
                    MutableHeaders(scope=message)[HEADER] = receipt
            await send(message)

        await self._app(scope, receive, send_with_receipt)


def note(http_request: Any, generate_request: Any) -> None:
    """The request of a client who asks has been checked: this is its call."""
    calls = getattr(http_request, "scope", {}).get(_CALLS)
    params = getattr(generate_request, "sampling_params", None)
    if calls is None or not isinstance(params, Mapping):
        return
    with suppress(HintError):  # refused by now, or of a kind that none can be
        hint = decode_caller(params.get("custom_params"))
        if hint is not None and hint.agent is not None:
            calls.append(
                ReceiptsRequest(
                    workflow=hint.workflow,
                    agent=hint.agent,
                    seq=hint.forecast.seq,
                    tenant=hint.tenant,
                )
            )


async def _receipt_of(call: ReceiptsRequest) -> str | None:
    try:
        answers = await asyncio.wait_for(ask_schedulers("kvflow_receipts", call), PATIENCE_S)
    except TimeoutError:
        return None
    return next((answer.json for answer in answers if answer.json is not None), None)
