"""An OpenAI-compatible server in a thread: answers by script, records what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiohttp import web

from kvflow_agents.forecast import Steps
from kvflow_agents.hints import Hint, decode_body, decode_request
from tests.web_server import ServerThread


@dataclass(frozen=True)
class ToolCall:
    """A reply that calls a tool."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


Reply = str | ToolCall


@dataclass(frozen=True)
class Request:
    """One chat completion as it arrived."""

    body: dict[str, Any]
    hint: Hint | None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return json.dumps(self.body["messages"])

    @property
    def agent(self) -> str | None:
        return self.hint.agent if self.hint else None

    @property
    def workflow(self) -> str | None:
        return self.hint.workflow if self.hint else None

    @property
    def steps(self) -> Steps:
        assert self.hint is not None, f"a request without a hint: {self.text}"
        return self.hint.forecast.steps


class FakeOpenAI:
    """Use as a context manager. A hint that is not well-formed is answered with status 400."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.forecasts: list[Hint] = []
        self.refused = 0
        self.delay_s = 0.0
        self.prompt_tokens = 1
        self.cached_tokens: int | None = None
        """What each answer says it has found in the cache; None: it does not say."""
        self.is_strict = False
        """Whether a field that OpenAI does not have is answered with status 400."""
        self.calls_tools = False
        """Whether a request that offers tools, and is in no script, is answered with a call of the
        first of them."""
        self.counts_at_end = False
        """Whether a stream says its usage with its last chunk only, as OpenAI's do."""
        self._scripts: defaultdict[str, deque[Reply]] = defaultdict(deque)
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/kvflow/forecast", self._take_forecast)
        self._thread = ServerThread(app)
        self.base_url = f"{self._thread.root_url}/v1"

    def script(self, marker: str, *replies: Reply) -> None:
        """Answer requests that mention `marker` so, one after the other; others with `ok`."""
        self._scripts[marker].extend(replies)

    def unscript(self) -> None:
        """Forget the replies that were not given."""
        self._scripts.clear()

    @property
    def agents(self) -> list[str | None]:
        """Who has called, in order."""
        return [request.agent for request in self.requests]

    def clear(self) -> None:
        """Forget what was asked so far."""
        self.requests.clear()
        self.forecasts.clear()

    def stop(self) -> None:
        """Go away, as a server does that crashes."""
        self._thread.stop()

    def __enter__(self) -> FakeOpenAI:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def _take_forecast(self, request: web.Request) -> web.Response:
        self.forecasts.append(decode_body(await request.json()))
        return web.json_response({})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.is_strict and "custom_params" in body:
            self.refused += 1
            error = {"message": "Unrecognized request argument supplied: custom_params"}
            response = web.json_response({"error": error}, status=400)
            response.force_close()
            return response
        received = Request(body, decode_request(body.get("custom_params")), dict(request.headers))
        self.requests.append(received)
        reply = self._reply_to(received)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if body.get("stream"):
            return await _stream(request, reply, self._usage(), self.counts_at_end)
        choice = {"index": 0, "message": _message(reply), "finish_reason": _reason(reply)}
        response = web.json_response(_envelope("chat.completion", choice, self._usage()))
        response.force_close()  # no client is left with an open connection
        return response

    def _usage(self) -> dict[str, Any]:
        usage: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": 1,
            "total_tokens": self.prompt_tokens + 1,
        }
        if self.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens}
        return usage

    def _reply_to(self, request: Request) -> Reply:
        for marker, replies in self._scripts.items():
            if replies and marker in request.text:
                return replies.popleft()
        if self.calls_tools and (tools := request.body.get("tools")):
            return ToolCall(tools[0]["function"]["name"])
        return "ok"


async def _stream(
    request: web.Request, reply: Reply, usage: dict[str, Any], counts_at_end: bool
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    response.force_close()
    await response.prepare(request)
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if isinstance(reply, str):
        deltas += [{"content": char} for char in reply]
    else:
        deltas.append({"tool_calls": [{"index": 0, **_tool_call(reply)}]})
    meanwhile = None if counts_at_end else usage
    for delta in deltas:
        await _send(response, {"index": 0, "delta": delta, "finish_reason": None}, meanwhile)
    await _send(response, {"index": 0, "delta": {}, "finish_reason": _reason(reply)}, usage)
    await response.write(b"data: [DONE]\n\n")
    return response


async def _send(
    response: web.StreamResponse, choice: dict[str, Any], usage: dict[str, Any] | None
) -> None:
    chunk = _envelope("chat.completion.chunk", choice, usage)
    await response.write(f"data: {json.dumps(chunk)}\n\n".encode())


def _envelope(kind: str, choice: dict[str, Any], usage: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-0",
        "object": kind,
        "created": 0,
        "model": "fake",
        "choices": [choice],
        "usage": usage,
    }


def _message(reply: Reply) -> dict[str, Any]:
    if isinstance(reply, str):
        return {"role": "assistant", "content": reply}
    return {"role": "assistant", "content": None, "tool_calls": [_tool_call(reply)]}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments)}
    return {"id": f"call_{call.name}", "type": "function", "function": function}


def _reason(reply: Reply) -> str:
    return "stop" if isinstance(reply, str) else "tool_calls"
