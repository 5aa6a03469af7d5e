"""What servers say of workflows, read from one that keeps receipts and some that do not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from kvflow_agents import Forecast, Hint
from kvflow_agents.call_records import CallRecords
from kvflow_agents.receipt_reader import PAGE, read_receipts
from kvflow_agents.reports import report
from kvflow_agents.servers import Server
from tests.agents.fake_server import FakeServer

TIMEOUT_S = 20.0
Answer = Callable[[str, int], tuple[int, Any]]
"""By workflow and offset, a status and a body."""


class ReceiptServer(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Answer = lambda name, offset: (404, {"error": {"reason": "unknown"}})
        self.keys: list[str | None] = []
        self.server = Server(f"http://127.0.0.1:{self.server_port}", "secret")


class _Handler(BaseHTTPRequestHandler):
    server: ReceiptServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        name = unquote(url.path.removeprefix("/kvflow/workflows/"))
        self.server.keys.append(self.headers["Authorization"])
        status, body = self.server.answer(name, int(parse_qs(url.query)["offset"][0]))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def keeper() -> Iterator[ReceiptServer]:
    with ReceiptServer() as keeper:
        thread = threading.Thread(target=keeper.serve_forever, args=(0.01,))
        thread.start()
        yield keeper
        keeper.shutdown()
        thread.join()


def agents(*names: str) -> dict[str, Any]:
    sums = {"calls": 1, "device_tokens": 10, "host_tokens": 2, "prefetched_tokens": 4, "stale": 0}
    sums |= {"late_tokens": 3, "wasted_tokens": 1234, "lost_tokens": 5}
    return {"agents": [{"agent": name, "sums": sums} for name in names]}


def test_receipts_are_summed_over_workflows_by_agent(keeper: ReceiptServer) -> None:
    keeper.answer = lambda name, offset: (200, agents("a", name))
    seen = [("run/1 ?", "app", (keeper.server,)), ("run 2", "app", (keeper.server,))]
    found = read_receipts(seen, TIMEOUT_S)
    assert found.notes == ()
    assert found.sums["app", "a"]["device_tokens"] == 20
    assert found.sums["app", "run/1 ?"]["device_tokens"] == 10
    assert set(keeper.keys) == {"Bearer secret"}


def test_a_server_that_hashes_names_is_noted(keeper: ReceiptServer) -> None:
    keeper.answer = lambda name, offset: (200, agents("5c1a0b") | {"workflow": "77ab01"})
    found = read_receipts([("run", "app", (keeper.server,))], TIMEOUT_S)
    (note,) = found.notes
    assert note.endswith("hashes names: its receipts cannot be told apart by agent")
    keeper.answer = lambda name, offset: (200, agents("a") | {"workflow": name})
    assert read_receipts([("run", "app", (keeper.server,))], TIMEOUT_S).notes == ()


def test_all_pages_are_read(keeper: ReceiptServer) -> None:
    names = [f"agent {number}" for number in range(PAGE + 5)]
    keeper.answer = lambda name, offset: (200, agents(*names[offset : offset + PAGE]))
    found = read_receipts([("run", None, (keeper.server,))], TIMEOUT_S)
    assert {agent for _, agent in found.sums} == {*names}


def test_a_workflow_that_was_forgotten_is_a_note(keeper: ReceiptServer) -> None:
    known = (200, agents("a"))
    unknown = keeper.answer("gone", 0)
    keeper.answer = lambda name, offset: unknown if name == "gone" else known
    seen = [("gone", None, (keeper.server,)), ("run", None, (keeper.server,))]
    found = read_receipts(seen, TIMEOUT_S)
    assert found.sums[None, "a"]["calls"] == 1
    assert found.notes == (f"{keeper.server.root_url} does not know 1 of 2 workflows",)


@pytest.mark.parametrize(
    "answer, why",
    [
        ((404, {"detail": "Not Found"}), "it is not kvflow"),
        ((401, {}), "status 401"),
        ((500, {}), "status 500"),
        ((302, {}), "status 302"),
        ((200, []), "TypeError"),
        ((200, {"agents": [{"agent": "a", "sums": 3}]}), "TypeError"),
        ((200, {"agents": [{}]}), "KeyError"),
        ((200, {}), "KeyError"),
    ],
)
def test_a_server_that_answers_otherwise_is_a_note_and_asked_once(
    keeper: ReceiptServer, answer: tuple[int, Any], why: str
) -> None:
    keeper.answer = lambda name, offset: answer
    seen = [(name, None, (keeper.server,)) for name in ("one", "two")]
    found = read_receipts(seen, TIMEOUT_S)
    assert dict(found.sums) == {}
    (note,) = found.notes
    assert keeper.server.root_url in note and why in note
    assert len(keeper.keys) == 1


def test_a_server_that_is_gone_is_a_note() -> None:
    # Nobody listens on a port below 1,024 that no service has.
    found = read_receipts([("run", None, (Server("http://127.0.0.1:1"),))], TIMEOUT_S)
    assert "http://127.0.0.1:1 gives no receipts" in found.notes[0]


def test_nobody_waits_for_a_slow_server(server: FakeServer, keeper: ReceiptServer) -> None:
    keeper.answer = lambda name, offset: (200, agents("a"))
    server.is_open.clear()
    slow = Server(server.root_url)
    found = read_receipts([("run", None, (slow, keeper.server))], 1.0)
    server.is_open.set()
    assert found.sums[None, "a"]["calls"] == 1
    assert len(found.notes) == 1 and slow.root_url in found.notes[0]


def test_a_report_has_the_receipts_if_asked_for(keeper: ReceiptServer) -> None:
    keeper.answer = lambda name, offset: (200, agents("writer"))
    records = CallRecords()
    for name in ("writer", "editor"):
        records.begin(Hint("run", Forecast(0, {}), name, "app"), keeper.server, 0.0)
    assert report(records=records)["writer"].receipts is None
    found = report(receipts=True, timeout_s=TIMEOUT_S, records=records)
    receipts = found["writer"].receipts
    assert receipts is not None and receipts["device_tokens"] == 10
    assert found["editor"].receipts is None
    headings, of_writer, of_editor = (line.split() for line in str(found).splitlines())
    assert headings[-6:] == ["device", "host", "ahead", "late", "wasted", "lost"]
    assert of_writer[-6:] == ["10", "2", "4", "3", "1,234", "5"]
    assert of_editor[-6:] == ["-"] * 6
    assert json.loads(found.to_json())["agents"][0]["receipts"]["wasted_tokens"] == 1234
