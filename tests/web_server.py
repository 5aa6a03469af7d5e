"""An aiohttp application at a port of its own: in a test's loop, or in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web

T = TypeVar("T")


class WebServer:
    """Served by the loop that enters it, until it exits."""

    def __init__(self, app: web.Application, port: int = 0) -> None:
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self.root_url = f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # asyncio leaks a connection that it is accepting when its server closes
        # (python/cpython#109564): accept no more, and let those become connections first.
        asyncio.get_running_loop().remove_reader(self._socket)
        await asyncio.sleep(0.01)
        await self._runner.cleanup()
        await asyncio.sleep(0.01)  # transports close in the loop's next rounds


class ServerThread:
    """Serves an application from `start` to `stop`, while the test's own thread may block."""

    def __init__(self, app: web.Application) -> None:
        self._server = WebServer(app)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.root_url = self._server.root_url

    def start(self) -> None:
        self._thread.start()
        self._run(self._server.__aenter__())

    def stop(self) -> None:
        """A second time does nothing."""
        if self._loop.is_closed():
            return
        self._run(self._server.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)
