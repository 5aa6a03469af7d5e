"""A server in a thread that records what it was asked, with status codes to order."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from aiohttp import web

from tests.web_server import ServerThread

CHUNK = {
    "id": "x",
    "object": "chat.completion.chunk",
    "created": 0,
    "model": "m",
    "choices": [{"index": 0, "delta": {"role": "assistant", "content": "ok"}}],
}
CHAT = {
    "id": "x",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "ok"}}
    ],
}
TEXT = {
    "id": "x",
    "object": "text_completion",
    "created": 0,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "text": "ok", "logprobs": None}],
}
EMBEDDINGS = {
    "object": "list",
    "model": "m",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}
ANSWERS: dict[str, dict[str, Any]] = {
    "/chat/completions": CHAT,
    "/completions": TEXT,
    "/embeddings": EMBEDDINGS,
}


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: Any

    @property
    def params(self) -> Any:
        """The request's `custom_params`, None without."""
        return self.body.get("custom_params")


class FakeServer:
    """Use as a context manager.

    The next answers have the `statuses`, then 200. While `is_open` is clear, nothing is answered.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.statuses: deque[int] = deque()
        self.answer_headers: dict[str, str] = {}
        self.usage: dict[str, int] | None = None
        self.is_open = threading.Event()
        self.is_open.set()
        self.has_request = threading.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._thread = ServerThread(app)
        self.root_url = self._thread.root_url

    @property
    def base_url(self) -> str:
        return f"{self.root_url}/v1"

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.is_open.set()
        self._thread.stop()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        try:
            body = json.loads(text) if text else None
        except ValueError:
            body = text
        self.requests.append(Request(request.path, dict(request.headers), body))
        self.has_request.set()
        while not self.is_open.is_set():
            await asyncio.sleep(0.005)
        status = self.statuses.popleft() if self.statuses else 200
        if status != 200:
            return web.json_response(
                {"error": "ordered"}, status=status, headers=self.answer_headers
            )
        if isinstance(body, dict) and body.get("stream"):
            return web.Response(
                text=f"data: {json.dumps(CHUNK)}\n\ndata: [DONE]\n\n",
                content_type="text/event-stream",
            )
        answer = next((ANSWERS[end] for end in ANSWERS if request.path.endswith(end)), {})
        return web.json_response(answer if self.usage is None else {**answer, "usage": self.usage})
