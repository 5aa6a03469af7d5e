"""Which dialect a server speaks: it is asked in the background."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from kvflow_agents.courier import NoRedirects
from kvflow_agents.dialects import DYNAMO, KVFLOW, NONE
from kvflow_agents.envelope import SPEAKS
from kvflow_agents.failsafe import logger
from kvflow_agents.servers import Server

STATUS_PATH = "/kvflow/status"
HEALTH_PATH = "/health"
MAX_ANSWER_BYTES = 262_144
# A server and the key it was asked with; the pair used longest ago is forgotten first.
MAX_REMEMBERED = 256
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0
# Besides 5xx: what a server says that will answer otherwise later.
TEMPORARY_STATUSES = (408, 425, 429)

Asked = tuple[str, str | None]
"""A server's root, and the key of the client that asks: who has another may be told otherwise."""


@dataclass(slots=True)
class _Known:
    """What one client knows of a server."""

    dialect: str | None = None
    attempts: int = 0
    ask_again_s: float = 0.0


class Inquiries:
    """What servers have answered. Nothing here blocks the caller or raises.

    One that says 401 or 404, or nonsense, speaks no dialect. One that is not there or not ready,
    or does not answer in time, is asked again after a pause, which doubles each time. A forked
    child asks again for what its parent was still waiting for.
    """

    def __init__(
        self, *, timeout_s: float = 2.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._opener = urllib.request.build_opener(NoRedirects)
        self._known: OrderedDict[Asked, _Known] = OrderedDict()
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._threads: dict[Asked, threading.Thread] = {}
        self._lock = threading.Lock()

    def dialect_of(self, server: Server) -> str | None:
        """The dialect that a server speaks; None while it is not known."""
        asked = (server.root_url, server.api_key)
        with self._lock:
            known = self._remembered(asked)
            is_due = asked not in self._threads and self._clock() >= known.ask_again_s
            if known.dialect is None and is_due:
                self._start(asked, known, server)
            return known.dialect

    def settle(self, timeout_s: float) -> None:
        """Wait for the answers that are still to come."""
        for thread in list(self._threads.values()):
            thread.join(timeout_s)

    def _remembered(self, asked: Asked) -> _Known:
        known = self._known.setdefault(asked, _Known())
        self._known.move_to_end(asked)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return known

    def _start(self, asked: Asked, known: _Known, server: Server) -> None:
        thread = threading.Thread(
            target=self._ask, args=(asked, known, server), name="kvflow-inquiry", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends
            return
        self._threads[asked] = thread

    def _ask(self, asked: Asked, known: _Known, server: Server) -> None:
        try:
            dialect = self._dialect(server)
        except OSError:
            dialect = None
        if dialect is not None:
            logger.info("%s speaks the dialect %s", server.root_url, dialect)
        with self._lock:
            pause_s = min(FIRST_PAUSE_S * 2.0**known.attempts, LONGEST_PAUSE_S)
            known.dialect, known.attempts = dialect, known.attempts + 1
            known.ask_again_s = self._clock() + pause_s
            self._threads.pop(asked, None)

    def _dialect(self, server: Server) -> str | None:
        """None, or OSError, if the server may answer otherwise later."""
        if takes_forecasts(self._get(server, STATUS_PATH)):
            return KVFLOW
        endpoints = endpoints_of(self._get(server, HEALTH_PATH))
        if endpoints == []:
            return None  # a frontend of Dynamo whose workers have not registered
        return DYNAMO if is_dynamo(endpoints) else NONE

    def _get(self, server: Server, path: str) -> object:
        """The JSON that a server answers with, None for anything else; OSError if that is
        temporary."""
        headers = {"Authorization": f"Bearer {server.api_key}"} if server.api_key else {}
        try:
            request = urllib.request.Request(server.root_url + path, headers=headers)
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return json.loads(self._read(answer))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code >= 500 or error.code in TEMPORARY_STATUSES:
                raise
        except OSError:  # before HTTPException: a server that hangs up is both
            raise
        except (HTTPException, ValueError, RecursionError):
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


def endpoints_of(health: object) -> list[object] | None:
    """The endpoints in an answer to `GET /health`, as Dynamo's frontend lists them; None if none
    are listed.

    `lib/llm/src/http/service/health.rs` of ai-dynamo/dynamo at 0ab2b3f: a list that is empty
    until workers register, under status 503 until they have been looked for.
    """
    endpoints = health.get("endpoints") if isinstance(health, dict) else None
    return endpoints if isinstance(endpoints, list) else None


def is_dynamo(endpoints: list[object] | None) -> bool:
    """Whether endpoints are those of Dynamo's workers."""
    return any(isinstance(each, str) and each.startswith("dyn://") for each in endpoints or ())


inquiries = Inquiries()
