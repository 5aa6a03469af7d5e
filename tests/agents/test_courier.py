"""The courier against a real server on this machine, one that hangs, and none at all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from kvflow_agents import Forecast, Hint, process
from kvflow_agents.courier import FORECAST_PATH, Courier
from kvflow_agents.hints import decode_body
from kvflow_agents.servers import Server
from kvflow_agents.simulation import Simulation
from tests.agents.fake_server import FakeServer

# Nobody listens on a port below 1,024 that no service has.
DEAD = Server("http://127.0.0.1:1")


def hint(seq: int) -> Hint:
    return Hint("run", Forecast(seq, {"a": 1}))


def seqs(server: FakeServer) -> list[int]:
    return [request.body["seq"] for request in server.requests]


@pytest.fixture
def hanging(server: FakeServer) -> Iterator[FakeServer]:
    """A server that takes requests and answers none until the test is over."""
    server.is_open.clear()
    yield server
    server.is_open.set()


def test_a_hint_is_posted_to_the_servers_endpoint(server: FakeServer) -> None:
    courier = Courier()
    courier.send(Server(server.root_url), hint(7))
    assert courier.flush(10)
    (request,) = server.requests
    assert request.path == FORECAST_PATH
    assert request.headers["Content-Type"] == "application/json"
    assert decode_body(request.body) == hint(7)
    assert "Authorization" not in request.headers
    assert (courier.sent, courier.undelivered) == (1, 0)


def test_the_api_key_is_sent_as_a_bearer(server: FakeServer) -> None:
    courier = Courier()
    courier.send(Server(server.root_url, "secret"), hint(1))
    assert courier.flush(10)
    assert server.requests[0].headers["Authorization"] == "Bearer secret"


def test_the_api_key_follows_no_redirect(server: FakeServer) -> None:
    courier = Courier()
    server.statuses.append(302)
    server.answer_headers["Location"] = f"{server.root_url}/elsewhere"
    courier.send(Server(server.root_url, "secret"), hint(1))
    assert courier.flush(10)
    assert [request.path for request in server.requests] == [FORECAST_PATH]
    assert (courier.sent, courier.undelivered) == (0, 1)


def test_the_api_key_is_not_shown_with_its_server() -> None:
    assert "secret" not in repr(Server("http://localhost", "secret"))


def test_hints_arrive_in_the_order_in_which_they_were_sent(server: FakeServer) -> None:
    courier = Courier()
    for seq in range(20):
        courier.send(Server(server.root_url), hint(seq))
    assert courier.flush(10)
    assert seqs(server) == list(range(20))


@pytest.mark.parametrize("status", [400, 401, 500, 503])
def test_a_refusal_is_counted_and_the_server_asked_again(server: FakeServer, status: int) -> None:
    courier = Courier()
    server.statuses.append(status)
    for seq in (1, 2):
        courier.send(Server(server.root_url), hint(seq))
    assert courier.flush(10)
    assert seqs(server) == [1, 2]
    assert (courier.sent, courier.undelivered) == (1, 1)


@pytest.mark.parametrize("status", [404, 405])
def test_a_server_without_the_endpoint_is_not_asked_again(server: FakeServer, status: int) -> None:
    courier = Courier()
    server.statuses.append(status)
    courier.send(Server(server.root_url), hint(1))
    assert courier.flush(10)
    courier.send(Server(server.root_url, "other key"), hint(2))
    assert courier.flush(10)
    assert seqs(server) == [1]
    assert (courier.sent, courier.undelivered) == (0, 1)


def test_hints_that_waited_behind_a_404_are_not_posted_either(server: FakeServer) -> None:
    courier = Courier()
    server.is_open.clear()
    server.statuses.append(404)
    for seq in range(5):
        courier.send(Server(server.root_url), hint(seq))
    server.is_open.set()
    assert courier.flush(10)
    assert seqs(server) == [0]


@pytest.mark.parametrize(
    "server",
    [
        DEAD,
        Server("http://no such host"),
        Server("http://user:password@127.0.0.1:1"),
        Server("http://127.0.0.1:1", "a\nkey"),
        Server("http://127.0.0.1:1", "clé 研"),
        Server("not a URL"),
        Server(""),
    ],
    ids=repr,
)
def test_a_server_that_cannot_be_reached_is_counted(server: Server) -> None:
    courier = Courier()
    for seq in (1, 2):
        courier.send(server, hint(seq))
    assert courier.flush(30)
    assert (courier.sent, courier.undelivered) == (0, 2)


def test_a_server_that_hangs_does_not_block_the_caller(hanging: FakeServer) -> None:
    courier = Courier(timeout_s=600)
    courier.send(Server(hanging.root_url), hint(1))
    assert hanging.has_request.wait(10)
    for seq in range(2, 6):
        courier.send(Server(hanging.root_url), hint(seq))
    assert seqs(hanging) == [1]
    assert not courier.flush(0.01)
    hanging.is_open.set()
    assert courier.flush(10)
    assert seqs(hanging) == [1, 2, 3, 4, 5]


def test_a_server_that_hangs_is_given_up(hanging: FakeServer) -> None:
    courier = Courier(timeout_s=0.05)
    courier.send(Server(hanging.root_url), hint(1))
    assert courier.flush(10)
    assert (courier.sent, courier.undelivered) == (0, 1)


def test_what_finds_the_queue_full_is_counted_and_dropped(hanging: FakeServer) -> None:
    courier = Courier(timeout_s=600, most_waiting=2)
    courier.send(Server(hanging.root_url), hint(0))
    assert hanging.has_request.wait(10)  # out of the queue, under way

    def send_five() -> None:
        for seq in range(1, 6):
            courier.send(Server(hanging.root_url), hint(seq))

    sender = threading.Thread(target=send_five, daemon=True)
    sender.start()
    sender.join(30)
    assert not sender.is_alive()
    assert courier.undelivered == 3
    hanging.is_open.set()
    assert courier.flush(10)
    assert seqs(hanging) == [0, 1, 2]
    assert (courier.sent, courier.undelivered) == (3, 3)


def test_nothing_to_send_is_flushed_at_once_and_without_a_thread() -> None:
    before = threading.active_count()
    assert Courier().flush(0)
    assert threading.active_count() == before


def test_a_thread_that_cannot_start_does_not_reach_the_caller(
    monkeypatch: pytest.MonkeyPatch, server: FakeServer
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    courier = Courier()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        courier.send(Server(server.root_url), hint(1))
    courier.send(Server(server.root_url), hint(2))
    assert courier.flush(10)
    assert seqs(server) == [1, 2]


def test_threads_that_send_at_once_share_one_courier_thread(server: FakeServer) -> None:
    courier = Courier()
    begin = threading.Barrier(8)

    def send(thread: int) -> None:
        begin.wait()
        for number in range(10):
            courier.send(Server(server.root_url), hint(10 * thread + number))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert courier.flush(10)
    assert sorted(seqs(server)) == list(range(80))
    # One thread: what each sender sent has kept its order.
    for thread_number in range(8):
        own = [seq for seq in seqs(server) if seq // 10 == thread_number]
        assert own == sorted(own)


FORK = """
import os, signal, sys
from kvflow_agents import Forecast, Hint, process
from kvflow_agents.courier import Courier
from kvflow_agents.servers import Server

signal.alarm(60)  # rather than hang
courier, server = Courier(timeout_s=600), Server(sys.argv[1])
courier.send(server, Hint("parent", Forecast(1)))
sys.stdin.readline()  # the server has this one and hangs
courier.send(server, Hint("parent", Forecast(2)))
courier._waiting.mutex.acquire()  # as by a thread that sends at this moment
child = os.fork()
if child == 0:
    signal.alarm(30)
    empty = courier.flush(0)
    courier.send(server, Hint("child", Forecast(3)))
    print("empty" if empty else "not empty", flush=True)
    os._exit(0 if courier.flush(30) else 1)
courier._waiting.mutex.release()
sys.exit(os.waitpid(child, 0)[1] or not courier.flush(30))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_sends_its_own_hints_and_not_its_parents(server: FakeServer) -> None:
    server.is_open.clear()
    with subprocess.Popen(
        [sys.executable, "-c", FORK, server.root_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout
        assert server.has_request.wait(30)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "empty\n"
        server.is_open.set()
        assert process.wait(60) == 0
    posted = [(request.body["workflow"], request.body["seq"]) for request in server.requests]
    assert sorted(posted) == [("child", 3), ("parent", 1), ("parent", 2)]


def test_what_waits_when_the_process_ends_is_still_posted(server: FakeServer) -> None:
    code = (
        "import sys\n"
        "from kvflow_agents import Forecast, Hint\n"
        "from kvflow_agents.courier import Courier\n"
        "from kvflow_agents.servers import Server\n"
        "Courier().send(Server(sys.argv[1]), Hint('last', Forecast(1, done=True)))\n"
    )
    subprocess.run([sys.executable, "-c", code, server.root_url], check=True)
    assert [request.body["workflow"] for request in server.requests] == ["last"]


def test_carriers_of_one_process_have_one_thread_and_leave_nothing_when_they_are_gone(
    server: FakeServer,
) -> None:
    hooks = len(process.in_forked_child)
    threads = {thread for thread in threading.enumerate() if thread.name == "kvflow"}
    for number in range(10):
        with Simulation(f"town {number}", base_urls=[server.base_url]) as simulation:
            simulation.carrier.post(Server(server.root_url), Hint("town", Forecast(1)))
    assert simulation.carrier.courier.flush(10)
    now = {thread for thread in threading.enumerate() if thread.name == "kvflow"}
    assert len(now - threads) <= 1
    assert len(process.in_forked_child) == hooks
    for _ in range(10):
        Courier()
    assert len(process.in_forked_child) <= hooks + 1
