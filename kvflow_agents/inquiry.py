"""Which dialect a server speaks: it is asked once, in the background."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from kvflow_agents.courier import NoRedirects
from kvflow_agents.dialects import KVFLOW, NONE
from kvflow_agents.envelope import SPEAKS
from kvflow_agents.failsafe import logger
from kvflow_agents.servers import Server

STATUS_PATH = "/kvflow/status"
HEALTH_PATH = "/health"
MAX_ANSWER_BYTES = 262_144
MAX_SERVERS = 64
# Of a server that is not there yet; any other answer is the last.
MAX_ATTEMPTS = 3


class Inquiries:
    """What servers have answered. Nothing here blocks the caller, raises, or is asked twice.

    A server that says 401, 404 or 500, nonsense, or nothing in time speaks no dialect. A forked
    child asks again for what its parent was still waiting for.
    """

    def __init__(self, *, timeout_s: float = 2.0) -> None:
        self._timeout_s = timeout_s
        self._opener = urllib.request.build_opener(NoRedirects)
        self._answers: dict[str, str] = {}
        self._attempts: dict[str, int] = {}
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._threads: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()

    def dialect_of(self, server: Server) -> str | None:
        """The dialect that a server speaks; None while it is not known."""
        answer = self._answers.get(server.root_url)
        if answer is None:
            self._start(server)
        return answer

    def settle(self, timeout_s: float) -> None:
        """Wait for the answers that are still to come."""
        for thread in list(self._threads.values()):
            thread.join(timeout_s)

    def _start(self, server: Server) -> None:
        root_url = server.root_url
        with self._lock:
            attempts = self._attempts.get(root_url, 0)
            is_known = root_url in self._attempts or len(self._attempts) < MAX_SERVERS
            if root_url in self._threads or attempts >= MAX_ATTEMPTS or not is_known:
                return
            self._attempts[root_url] = attempts + 1
            thread = threading.Thread(
                target=self._ask, args=(server,), name="kvflow-inquiry", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # the interpreter ends
                return
            self._threads[root_url] = thread

    def _ask(self, server: Server) -> None:
        try:
            answer = self._dialect(server)
        except ConnectionError:
            pass  # not there yet
        else:
            self._answers[server.root_url] = answer
            logger.info("%s speaks the dialect %s", server.root_url, answer)
        with self._lock:
            self._threads.pop(server.root_url, None)

    def _dialect(self, server: Server) -> str:
        if takes_forecasts(self._get(server, STATUS_PATH)):
            return KVFLOW
        return "dynamo" if is_dynamo(self._get(server, HEALTH_PATH)) else NONE

    def _get(self, server: Server, path: str) -> object:
        """The JSON that a server answers with, None for anything else; ConnectionError if it is
        not there."""
        headers = {"Authorization": f"Bearer {server.api_key}"} if server.api_key else {}
        try:
            request = urllib.request.Request(server.root_url + path, headers=headers)
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return json.loads(self._read(answer))
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionError):
                raise error.reason from error
        except (OSError, HTTPException, ValueError, RecursionError):
            pass
        return None

    def _read(self, answer: Any) -> bytes:
        """All of an answer, unless it is long or drips: a timeout is for each read."""
        deadline = time.monotonic() + self._timeout_s
        body = b""
        while (piece := answer.read1(65_536)) and len(body) <= MAX_ANSWER_BYTES:
            body += piece
            if time.monotonic() > deadline:
                raise TimeoutError
        return body


def takes_forecasts(status: object) -> bool:
    """Whether an answer to `GET /kvflow/status` is that of a server which takes our hints."""
    speaks = status.get("speaks") if isinstance(status, dict) else None
    return isinstance(speaks, list) and SPEAKS in speaks


def is_dynamo(health: object) -> bool:
    """Whether an answer to `GET /health` is that of Dynamo's frontend, which lists its endpoints.

    `lib/llm/src/http/service/health.rs` of ai-dynamo/dynamo at 0ab2b3f.
    """
    endpoints = health.get("endpoints") if isinstance(health, dict) else None
    return isinstance(endpoints, list) and any(
        isinstance(each, str) and each.startswith("dyn://") for each in endpoints
    )


inquiries = Inquiries()
