"""Forecasts that no request carries: posted in the background, and only where they are taken."""

from __future__ import annotations

import json
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException

from kvflow_agents import process
from kvflow_agents.failsafe import logger
from kvflow_agents.hints import Hint, encode_body
from kvflow_agents.servers import Server

FORECAST_PATH = "/kvflow/forecast"


class Courier:
    """Posts hints to servers from one daemon thread; `send` never blocks and never raises.

    What cannot be delivered is counted: a full queue, a server that is gone or refuses. A server
    that has no such endpoint is not asked again, one that hangs or is gone not for a while: others
    would wait behind it. A forked child begins with nothing to send.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 2.0,
        most_waiting: int = 256,
        rest_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sent = 0
        self.undelivered = 0
        self._timeout_s = timeout_s
        self._most_waiting = most_waiting
        self._rest_s = rest_s
        self._clock = clock
        self._resting_until_s: dict[str, float] = {}
        self._without_endpoint: set[str] = set()
        self._opener = urllib.request.build_opener(NoRedirects)
        self._begin()
        process.at_exit.add(self.flush, 0.5)
        process.in_forked_child.add(self._begin)

    def _begin(self) -> None:
        self._waiting: queue.Queue[tuple[Server, Hint]] = queue.Queue(self._most_waiting)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def send(self, server: Server, hint: Hint) -> None:
        """Post a hint to a server, some time soon."""
        try:
            self._waiting.put_nowait((server, hint))
            self._start()
        except (queue.Full, RuntimeError):  # or no thread can start: the interpreter ends
            self.undelivered += 1

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything sent so far has been tried; False if that takes too long."""
        waiting = self._waiting
        with waiting.all_tasks_done:
            return waiting.all_tasks_done.wait_for(
                lambda: not waiting.unfinished_tasks, timeout=timeout_s
            )

    def _start(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
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
        if server.root_url in self._without_endpoint:
            return
        if self._clock() < self._resting_until_s.get(server.root_url, 0.0):
            self.undelivered += 1
            return
        headers = {"Content-Type": "application/json", **server.headers()}
        url, body = server.root_url + FORECAST_PATH, json.dumps(encode_body(hint)).encode()
        try:
            request = urllib.request.Request(url, body, headers)
            with self._opener.open(request, timeout=self._timeout_s):
                self.sent += 1
        except urllib.error.HTTPError as error:
            self.undelivered += 1
            if error.code in (404, 405):
                self._without_endpoint.add(server.root_url)
                logger.info("%s has no %s: it is not kvflow", server.root_url, FORECAST_PATH)
        except (OSError, HTTPException, ValueError):
            self.undelivered += 1
            self._resting_until_s[server.root_url] = self._clock() + self._rest_s


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would take the API key to whoever it names."""

    def redirect_request(self, *_: object) -> None:
        return None


courier = Courier()
"""That of this process: one thread, however many carriers have something to post."""
