"""Servers behind a router that forwards no forecast: the client tells each of them."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from kvflow_agents import ConfigurationError, Forecast, Hint, report
from kvflow_agents.call_records import CallRecords
from kvflow_agents.carrier import Call, Carrier
from kvflow_agents.courier import FORECAST_PATH, Courier
from kvflow_agents.receipt_reader import WORKFLOW_PATH
from kvflow_agents.routers import (
    ROUTING_KEY_HEADER,
    WORKERS_VARIABLE,
    Routers,
    from_environment,
)
from kvflow_agents.servers import Server
from tests.agents.fake_server import ANSWERS, FakeServer

HINT = Hint("run", Forecast(1, {"a": 1}))


def test_servers_get_the_key_that_their_router_has() -> None:
    routers = Routers({"http://router": ("http://a", "http://b")})
    behind = routers.behind(Server("http://router", "secret"))
    assert behind == (Server("http://a", "secret"), Server("http://b", "secret"))
    assert routers.behind(Server("http://other", "secret")) == ()


def test_each_router_has_servers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        WORKERS_VARIABLE, "http://r:1/v1=http://a:1/v1,http://b:1/  https://s=http://c:1"
    )
    routers = from_environment()
    assert [each.root_url for each in routers.behind(Server("http://r:1"))] == [
        *("http://a:1", "http://b:1")
    ]
    assert routers.behind(Server("https://s")) == (Server("http://c:1"),)
    monkeypatch.delenv(WORKERS_VARIABLE)
    assert from_environment().behind(Server("http://r:1")) == ()


@pytest.mark.parametrize(
    "entry", ["http://r", "http://r=", "r=http://a", "http://r=a", "=http://a"]
)
def test_an_entry_that_names_no_servers_is_refused(
    entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORKERS_VARIABLE, entry)
    with pytest.raises(ConfigurationError, match=WORKERS_VARIABLE):
        from_environment()


def test_only_a_routers_calls_have_a_key() -> None:
    router, agent_call = Server("http://router"), HINT._replace(agent="作家" * 40)
    routers = Routers({router.root_url: ("http://a",)})
    (key,) = routers.headers(router, agent_call).values()
    (other,) = routers.headers(router, HINT._replace(agent="a")).values()
    assert key.isalnum() and key != other
    assert routers.headers(Server("http://a"), agent_call) == {}
    assert routers.headers(router, HINT) == {}


@pytest.fixture
def hanging() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.is_open.clear()
        yield server
        server.is_open.set()


def test_a_server_that_hangs_is_left_alone_for_a_while(
    server: FakeServer, hanging: FakeServer
) -> None:
    now = 0.0
    courier = Courier(timeout_s=0.2, rest_s=10.0, clock=lambda: now)
    for _ in range(5):
        courier.send(Server(hanging.root_url), HINT)
        courier.send(Server(server.root_url), HINT)
    assert courier.flush(30)
    assert len(server.requests) == 5
    assert (courier.sent, courier.undelivered) == (5, 5)
    hanging.is_open.set()
    courier.send(Server(hanging.root_url), HINT)
    assert courier.flush(30) and courier.undelivered == 6
    now = 11.0
    courier.send(Server(hanging.root_url), HINT)
    assert courier.flush(30) and (courier.sent, courier.undelivered) == (6, 6)


class Loop:
    """A workflow whose only agent goes on and on."""

    def __init__(self) -> None:
        self.seq = 0

    def hint(self, agent: str) -> Hint:
        self.seq += 1
        return Hint("run", Forecast(self.seq, {agent: 1}), agent=agent)


def test_every_server_behind_a_router_hears_of_each_call(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeServer() as router, FakeServer() as other:
        workers = f"{server.root_url},{other.root_url}"
        monkeypatch.setenv(WORKERS_VARIABLE, f"{router.root_url}={workers}")
        loop = Loop()
        carrier = Carrier(lambda: Call(loop, "a"), [router.root_url])
        carrier.install()
        try:
            with openai.OpenAI(base_url=f"{router.root_url}/v1", api_key="key") as client:
                for _ in range(2):
                    client.completions.create(model="m", prompt="hi")
        finally:
            carrier.uninstall()
        carrier.announce(Hint("run", Forecast(3, {}, done=True)))
        assert carrier.courier.flush(10)
        for each in (server, other):
            assert [request.path for request in each.requests] == 3 * [FORECAST_PATH]
            assert [request.body["seq"] for request in each.requests] == [1, 2, 3]
            assert [request.body.get("agent") for request in each.requests] == ["a", "a", None]
        # The same agent's calls, and no other's, have one key.
        keys = {request.headers.get(ROUTING_KEY_HEADER) for request in router.requests}
        other_agent = from_environment().headers(Server(router.root_url), loop.hint("b"))
        assert len(keys) == 1 and keys.isdisjoint({None, *other_agent.values()})
        # The router gets the calls alone: it has no such endpoint.
        assert not [request for request in router.requests if request.path == FORECAST_PATH]


def test_a_report_adds_up_the_receipts_of_all_servers_behind_a_router(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = {"agents": [{"agent": "a", "sums": {"calls": 2}}]}
    monkeypatch.setitem(ANSWERS, f"{WORKFLOW_PATH}run", page)
    with FakeServer() as other:
        workers = f"{server.root_url},{other.root_url}"
        monkeypatch.setenv(WORKERS_VARIABLE, f"http://router={workers}")
        records = CallRecords()
        records.begin(HINT._replace(agent="a"), Server("http://router"), 0.0)
        assert report(receipts=True, records=records)["a"].receipts == {"calls": 4}
