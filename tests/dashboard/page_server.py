"""The page as a kvflow server serves it, over views that are made up."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from aiohttp import web

from kvflow_sglang import dashboard
from tests.dashboard.views import Views
from tests.web_server import WebServer


class PageServer:
    """Serves the page and its views on a port of its own; can be stopped and started again."""

    def __init__(self, views: Views, *, key: str | None = None) -> None:
        self.views = views
        self.key = key
        self.port = 0
        self._server: WebServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/kvflow/"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/kvflow/view", self._view)
        for url_path in dashboard.FILES:
            app.router.add_get(url_path, self._file)
        self._server = await WebServer(app, self.port).__aenter__()
        self.port = self._server.port

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.__aexit__(None, None, None)
            self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _view(self, request: web.Request) -> web.StreamResponse:
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        answer: dict[str, Any] = self.views.answer(dict(request.query))
        return web.json_response(answer)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        file = dashboard.FILES[request.path]
        headers = {**dashboard.HEADERS, "Content-Type": file.media_type}
        return web.Response(body=file.path.read_bytes(), headers=headers)
