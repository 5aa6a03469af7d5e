"""The HTTP endpoints under `/kvflow/`. SGLang's API key guards them like any other path."""

from __future__ import annotations

import json

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from kvflow_agents import __version__
from kvflow_agents.errors import HintError
from kvflow_agents.hints import decode_body
from kvflow_sglang.compat import SGLANG_VERSION, ask_schedulers
from kvflow_sglang.doorman import Doorman
from kvflow_sglang.messages import StatusRequest, to_message

# The largest valid forecast: its names, thrice, each with quotes, a figure and escapes.
MAX_BODY_BYTES = 3_000_000


def make_router(doorman: Doorman, hooks: list[str]) -> APIRouter:
    """The routes; `hooks` are reported as what of SGLang kvflow has changed."""
    router = APIRouter(prefix="/kvflow")

    @router.post("/forecast")
    async def forecast(request: Request) -> JSONResponse:
        """Take a forecast that no request carries. 200 with its outcome, or 400 with a reason."""
        try:
            hint = decode_body(await _read_json(request))
        except HintError as error:
            doorman.refused[error.reason] += 1
            body = {"error": {"reason": error.reason, "message": str(error)}}
            return JSONResponse(body, status_code=413 if error.reason == "size" else 400)
        answers = await ask_schedulers("kvflow_forecast", to_message(hint))
        return JSONResponse({"outcome": answers[0].outcome})

    @router.get("/status")
    async def status() -> JSONResponse:
        """What kvflow is, has hooked, knows and protects; one entry of `ranks` per scheduler."""
        answers = await ask_schedulers("kvflow_status", StatusRequest())
        return JSONResponse(
            {
                "version": __version__,
                "sglang": SGLANG_VERSION,
                "hooks": sorted(hooks),
                "refused_hints": dict(sorted(doorman.refused.items())),
                "ranks": [answer.counts for answer in answers],
            }
        )

    return router


async def _read_json(request: Request) -> object:
    body = bytearray()
    async for chunk in request.stream():
        # To the end in any case: a client that is still sending would not see the answer.
        if len(body) <= MAX_BODY_BYTES:
            body += chunk
    if len(body) > MAX_BODY_BYTES:
        raise HintError("size", f"the body is longer than {MAX_BODY_BYTES} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HintError("type", f"the body is not JSON: {error}") from error
