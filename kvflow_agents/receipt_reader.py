"""Asks servers what became of the calls of workflows (docs/receipts.md)."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException

from kvflow_agents.courier import NoRedirects
from kvflow_agents.servers import Server

WORKFLOW_PATH = "/kvflow/workflows/"
PAGE = 100
MAX_ANSWER_BYTES = 4_000_000

Seen = tuple[str, str | None, tuple[Server, ...]]
"""A workflow, its app, and the servers that it has called."""


@dataclass(frozen=True, slots=True)
class FoundReceipts:
    """Sums by app and agent, of all workflows, and what could not be read."""

    sums: Mapping[tuple[str | None, str], Mapping[str, int]]
    notes: tuple[str, ...]


def read_receipts(workflows: Sequence[Seen], timeout_s: float) -> FoundReceipts:
    """All servers at once, each workflow by workflow, until the time is over."""
    asked: defaultdict[Server, list[tuple[str, str | None]]] = defaultdict(list)
    for name, app, servers in reversed(workflows):
        for server in servers:
            asked[server].append((name, app))
    readers = [_Reader(server, names, timeout_s) for server, names in asked.items()]
    deadline_s = time.monotonic() + timeout_s
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(max(deadline_s - time.monotonic(), 0.0))
    sums: defaultdict[tuple[str | None, str], Counter[str]] = defaultdict(Counter)
    for reader in readers:
        for key, found in reader.so_far():
            sums[key].update(found)
    by_agent = {key: dict(counter) for key, counter in sums.items()}
    return FoundReceipts(by_agent, tuple(note for reader in readers for note in reader.notes()))


class _Unreadable(Exception):
    """Why nothing more can be read from a server."""


class _Reader(threading.Thread):
    """Reads one server's receipts, workflow by workflow. A daemon: nobody waits for a slow one."""

    def __init__(self, server: Server, names: list[tuple[str, str | None]], timeout_s: float):
        super().__init__(name="kvflow receipts", daemon=True)
        self._server = server
        self._names = names
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        self._opener = urllib.request.build_opener(NoRedirects)
        self._found: list[tuple[tuple[str | None, str], dict[str, int]]] = []
        self._read = self._forgotten = self._hidden = 0
        self._failure: str | None = None

    def run(self) -> None:
        try:
            for name, app in self._names:
                if time.monotonic() >= self._deadline_s:
                    return
                agents = self._agents(name)
                self._found += [((app, agent), sums) for agent, sums in agents.items()]
                self._read += 1
        except _Unreadable as error:
            self._failure = str(error)
        except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError) as error:
            self._failure = f"gives no receipts: {error!r}"

    def so_far(self) -> list[tuple[tuple[str | None, str], dict[str, int]]]:
        """What has been read by now."""
        return list(self._found)

    def notes(self) -> list[str]:
        """What has not, and why."""
        url, unread = self._server.root_url, len(self._names) - self._read
        if self._failure is not None:
            return [f"{url} {self._failure}"]
        if unread:
            return [f"{url} was too slow: {unread} workflows have no receipts"]
        if self._hidden:
            return [f"{url} hashes names: its receipts cannot be told apart by agent"]
        if self._forgotten:
            return [f"{url} does not know {self._forgotten} of {len(self._names)} workflows"]
        return []

    def _agents(self, name: str) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for offset in range(0, 1_000_000, PAGE):
            page = self._page(name, offset)
            found |= {str(each["agent"]): _counts(each["sums"]) for each in page}
            if len(page) < PAGE:
                break
        return found

    def _page(self, name: str, offset: int) -> list[dict[str, object]]:
        path = WORKFLOW_PATH + urllib.parse.quote(name, safe="")
        url = f"{self._server.root_url}{path}?offset={offset}&limit={PAGE}"
        request = urllib.request.Request(url, headers=self._server.headers())
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                found = json.loads(answer.read(MAX_ANSWER_BYTES))
                agents: list[dict[str, object]] = found["agents"]
                # Its agents' names are hashes too.
                self._hidden += found.get("workflow", name) != name
                return agents
        except urllib.error.HTTPError as error:
            if error.code == 404 and _is_unknown(error.read(MAX_ANSWER_BYTES)):
                self._forgotten += 1
                return []
            if error.code in (404, 405):
                raise _Unreadable("has no receipts: it is not kvflow") from error
            raise _Unreadable(f"gives no receipts: status {error.code}") from error


def _is_unknown(body: bytes) -> bool:
    """Whether a server that keeps receipts says that it has none of a workflow."""
    try:
        return json.loads(body)["error"]["reason"] == "unknown"  # type: ignore[no-any-return]
    except (ValueError, KeyError, TypeError):
        return False


def _counts(sums: object) -> dict[str, int]:
    if not isinstance(sums, Mapping):
        raise TypeError(f"sums are an object, not {sums!r}")
    return {name: count for name, count in sums.items() if isinstance(count, int)}
