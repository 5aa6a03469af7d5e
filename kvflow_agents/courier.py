"""Forecasts that no request carries: posted in the background, and only where they are taken."""

from __future__ import annotations

import atexit
import json
import queue
import threading
import urllib.error
import urllib.request
from http.client import HTTPException

from kvflow_agents.failsafe import logger
from kvflow_agents.hints import Hint, encode_body
from kvflow_agents.servers import Server

FORECAST_PATH = "/kvflow/forecast"


class Courier:
    """Posts hints to servers from one daemon thread; `send` never blocks and never raises.

    What cannot be delivered is counted: a full queue, a server that is gone or refuses. A server
    that has no such endpoint is not asked again.
    """

    def __init__(self, *, timeout_s: float = 2.0, most_waiting: int = 256) -> None:
        self.sent = 0
        self.undelivered = 0
        self._timeout_s = timeout_s
        self._waiting: queue.Queue[tuple[Server, Hint]] = queue.Queue(most_waiting)
        self._without_endpoint: set[str] = set()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def send(self, server: Server, hint: Hint) -> None:
        """Post a hint to a server, some time soon."""
        if server.root_url in self._without_endpoint:
            return
        try:
            self._waiting.put_nowait((server, hint))
        except queue.Full:
            self.undelivered += 1
            return
        self._start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything sent so far has been tried; False if that takes too long."""
        waiting = self._waiting
        with waiting.all_tasks_done:
            return waiting.all_tasks_done.wait_for(
                lambda: not waiting.unfinished_tasks, timeout=timeout_s
            )

    def _start(self) -> None:
        with self._lock:
            # A forked child inherits the object, not the thread.
            if self._thread is None or not self._thread.is_alive():
                if self._thread is None:
                    atexit.register(self.flush, 0.5)
                self._thread = threading.Thread(target=self._run, name="kvflow", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            server, hint = self._waiting.get()
            try:
                self._post(server, hint)
            finally:
                self._waiting.task_done()

    def _post(self, server: Server, hint: Hint) -> None:
        headers = {"Content-Type": "application/json"}
        if server.api_key:
            headers["Authorization"] = f"Bearer {server.api_key}"
        request = urllib.request.Request(
            server.root_url + FORECAST_PATH, json.dumps(encode_body(hint)).encode(), headers
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s):
                self.sent += 1
        except urllib.error.HTTPError as error:
            self.undelivered += 1
            if error.code in (404, 405):
                self._without_endpoint.add(server.root_url)
                logger.info("%s has no %s: it is not kvflow", server.root_url, FORECAST_PATH)
        except (OSError, HTTPException, ValueError):
            self.undelivered += 1
