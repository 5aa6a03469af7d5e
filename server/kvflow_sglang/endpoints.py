"""The HTTP endpoints under `/kvflow/`. SGLang's API key guards them like any other path."""

from __future__ import annotations

import json
import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response

from kvflow_agents import __version__
from kvflow_agents.envelope import SPEAKS
from kvflow_agents.errors import HintError
from kvflow_agents.hints import decode_body
from kvflow_agents.receipts import MAX_PAGE
from kvflow_sglang import dashboard, openapi
from kvflow_sglang.compat.http_process import ask_schedulers, for_operators
from kvflow_sglang.compat.names import SGLANG_VERSION
from kvflow_sglang.doorman import Doorman
from kvflow_sglang.identity import Identity
from kvflow_sglang.interpreter import Interpreter
from kvflow_sglang.messages import ReceiptsRequest, StatusRequest, ViewRequest, to_message
from kvflow_sglang.view import MAX_AGENTS

# The largest valid forecast: its names, thrice, each with quotes, a figure and escapes.
MAX_BODY_BYTES = 3_000_000
# Names are the clients' own: no browser may take them for a page.
NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}

Offset = Annotated[int, Query(ge=0, le=1_000_000)]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
AgentsLimit = Annotated[int, Query(ge=1, le=MAX_AGENTS)]


def make_router(
    doorman: Doorman, interpreter: Interpreter, hooks: list[str], *, of_all: bool = False
) -> APIRouter:
    """The routes; `hooks` are reported as what of SGLang kvflow has changed.

    `of_all`: there is an admin key, and whoever has it sees all tenants.
    """
    router = APIRouter(prefix="/kvflow")
    _add_forecast(router, doorman)
    _add_status(router, doorman, interpreter, hooks)
    _add_receipts(router, doorman.identity)
    _add_view(router, doorman.identity, of_all)
    _add_page(router)
    return router


def _add_forecast(router: APIRouter, doorman: Doorman) -> None:
    # The body is read and checked by hand, within the limit.
    @router.post(
        "/forecast",
        openapi_extra=openapi.requests(openapi.FORECAST),
        responses=openapi.responses(openapi.OUTCOME, dict.fromkeys((400, 413), openapi.REFUSED)),
    )
    async def forecast(request: Request) -> JSONResponse:
        """Take a forecast that no request carries. 200 with its outcome, or 400 with a reason."""
        try:
            hint = decode_body(await _read_json(request))
        except HintError as error:
            doorman.refused[error.reason] += 1
            body = {"error": {"reason": error.reason, "message": str(error)}}
            return JSONResponse(body, status_code=413 if error.reason == "size" else 400)
        message = to_message(doorman.stamped(hint, doorman.identity.of_call(request.headers)))
        answers = await ask_schedulers("kvflow_forecast", message)
        return JSONResponse({"outcome": answers[0].outcome})


def _add_status(
    router: APIRouter, doorman: Doorman, interpreter: Interpreter, hooks: list[str]
) -> None:
    @router.get("/status", responses=openapi.responses(openapi.STATUS))
    async def status() -> JSONResponse:
        """What kvflow is, has hooked, knows and protects; one entry of `ranks` per scheduler."""
        answers = await ask_schedulers("kvflow_status", StatusRequest())
        return JSONResponse(
            {
                "version": __version__,
                "speaks": [SPEAKS],
                "sglang": SGLANG_VERSION,
                "hooks": sorted(hooks),
                "refused_hints": dict(sorted(doorman.refused.items())),
                "heard_forms": dict(sorted(interpreter.heard.items())),
                "ignored_fields": dict(sorted(interpreter.ignored.items())),
                "ranks": [answer.counts for answer in answers],
            }
        )


def _add_receipts(router: APIRouter, identity: Identity) -> None:
    @router.get(
        "/workflows",
        responses=openapi.responses(openapi.WORKFLOWS, {400: openapi.BAD_PARAMETERS}),
    )
    async def workflows(request: Request, offset: Offset = 0, limit: Limit = MAX_PAGE) -> Response:
        """The caller's workflows heard last, newest first, with what their calls add up to."""
        tenant = identity.of_call(request.headers)
        return await _receipts(ReceiptsRequest(offset=offset, limit=limit, tenant=tenant))

    @router.get(
        "/workflows/{name:path}",
        responses=openapi.responses(
            openapi.WORKFLOW, {400: openapi.BAD_PARAMETERS, 404: openapi.UNKNOWN}
        ),
    )
    async def workflow(
        request: Request, name: str, offset: Offset = 0, limit: Limit = MAX_PAGE
    ) -> Response:
        """One of the caller's workflows and its agents that called last; 404 if unknown."""
        tenant = identity.of_call(request.headers)
        # Of a name that is hashed the list has the hash, and whoever made the calls the name.
        return await _receipts(
            *(
                ReceiptsRequest(workflow=known, offset=offset, limit=limit, tenant=tenant)
                for known in dict.fromkeys((identity.hidden_name(name), name))
            )
        )


def _add_view(router: APIRouter, identity: Identity, of_all: bool) -> None:
    server = secrets.token_hex(8)

    @router.get("/view", responses=openapi.responses(openapi.VIEW, {400: openapi.BAD_PARAMETERS}))
    @for_operators
    async def view(
        request: Request,
        tenant: str | None = None,
        workflow: str | None = None,
        offset: Offset = 0,
        limit: Limit = MAX_PAGE,
        agents_offset: Offset = 0,
        agents_limit: AgentsLimit = MAX_AGENTS,
    ) -> Response:
        """What the page shows; `server` changes when the server was restarted.

        Of the caller's own workflows; of everybody's where the admin key was asked for.
        """
        if not of_all:
            tenant = identity.of_call(request.headers)
        asked = ViewRequest(
            workflow=workflow,
            tenant=tenant,
            of_all=of_all,
            offset=offset,
            limit=limit,
            agents_offset=agents_offset,
            agents_limit=agents_limit,
        )
        answers = await ask_schedulers("kvflow_view", asked)
        about = json.dumps({"version": __version__, "server": server, "ranks": len(answers)})
        # Ranks of one replica agree; of several replicas the first is shown.
        body = f'{about[:-1]}, "view": {answers[0].json}}}'
        return Response(body, media_type="application/json", headers=NO_SNIFFING)


def _add_page(router: APIRouter) -> None:
    @router.get("/page/{name:path}", include_in_schema=False)
    async def page(name: str) -> Response:
        """A file of the page."""
        return _file(f"/kvflow/page/{name}")

    @router.get("", include_in_schema=False)
    async def beside_page() -> Response:
        """The page's address without its last slash."""
        return RedirectResponse("kvflow/")

    @router.get("/", include_in_schema=False)
    async def index() -> Response:
        """The page."""
        return _file("/kvflow/")


def _file(url_path: str) -> Response:
    file = dashboard.FILES.get(url_path)
    if file is None:
        return JSONResponse({"error": {"reason": "unknown"}}, status_code=404)
    return FileResponse(file.path, media_type=file.media_type, headers=dashboard.HEADERS)


async def _receipts(*requests: Any) -> Response:
    for request in requests:
        # Ranks of one replica agree; of several replicas the first that knows the workflow answers.
        for answer in await ask_schedulers("kvflow_receipts", request):
            if answer.json is not None:
                return Response(answer.json, media_type="application/json", headers=NO_SNIFFING)
    message = "no workflow of this name is known: it never called, or was forgotten since"
    return JSONResponse({"error": {"reason": "unknown", "message": message}}, status_code=404)


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
