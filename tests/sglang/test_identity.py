"""Who counts as one tenant, and what is left of a name that is hashed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from sglang.srt.managers.io_struct import GenerateReqInput
from starlette.requests import Request
from starlette.testclient import TestClient

from kvflow_agents.errors import ConfigurationError
from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import SERVER_FIELDS, Hint, decode_request, encode_request, tenant_in
from kvflow_agents.servers import Server
from kvflow_sglang import endpoints, plugin
from kvflow_sglang.doorman import Doorman
from kvflow_sglang.identity import Identity
from kvflow_sglang.interpreter import Interpreter
from kvflow_sglang.messages import answer_receipts
from kvflow_sglang.receipt_header import Wanted
from kvflow_sglang.settings import Settings
from kvflow_sglang.standalone import StandaloneCache

HINT = Hint("run", Forecast(1, {"writer": 0}, due_ms={"writer": 5}), agent="writer", app="app")
KEYED = {"authorization": "Bearer secret-one"}


def of_request(settings: Settings, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    """The tenant that a request carries on from the door."""
    request = SimpleNamespace(**{"sampling_params": None, **fields})
    Doorman(allows_nesting=False, identity=Identity(settings, key=b"k")).admit(
        request, headers or {}
    )
    params = request.sampling_params
    if isinstance(params, list):
        return [tenant_in((each or {}).get("custom_params")) for each in params]
    return tenant_in((params or {}).get("custom_params"))


def http_request(headers: dict[str, str]) -> Request:
    """As it comes from SGLang's HTTP server, which sends names in lower case."""
    sent = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": sent})


def admitted(settings: Settings, http: Request, custom_params: Any = None) -> Any:
    """What a request carries on from the hook that every one goes through."""
    door = Doorman(allows_nesting=False, identity=Identity(settings, key=b"k"))
    reader = Interpreter(door.refused, settings=settings, priority_sign=None)
    request = GenerateReqInput(text="hello", sampling_params={"custom_params": custom_params})
    plugin._admit(door, reader, None, Wanted(), None, request, http)
    return request.sampling_params["custom_params"]


def test_without_salts_everybody_is_one_tenant_whatever_its_key() -> None:
    assert of_request(Settings()) is None
    assert of_request(Settings(), KEYED, cache_salt=None, extra_key="") is None
    assert Identity(Settings()).of_call(KEYED) is None


def test_salts_and_extra_keys_tell_tenants_apart() -> None:
    fields: list[dict[str, Any]] = [
        {"cache_salt": "a"},
        {"cache_salt": "b"},
        {"extra_key": "a"},
        {"cache_salt": "a", "extra_key": "a"},
        {"cache_salt": "aa"},
        {"extra_key": "aa"},
    ]
    tenants = [of_request(Settings(), **each) for each in fields]
    assert None not in tenants and len(set(tenants)) == len(tenants)
    assert tenants == [of_request(Settings(), **each) for each in fields]
    assert not any("a" == tenant for tenant in tenants)


def test_of_a_batch_each_request_has_its_own_salt() -> None:
    one, other = (of_request(Settings(), cache_salt=each) for each in "ab")
    assert of_request(Settings(), cache_salt=["a", "b", None]) == [one, other, None]
    params = [{"custom_params": {"mine": 1}}, {}, None]
    found = of_request(Settings(), cache_salt=["a", "b", "a"], sampling_params=params)
    assert found == [one, other, one]


def test_calls_without_a_body_say_their_salts_in_headers() -> None:
    identity = Identity(Settings(), key=b"k")
    salted = Server("http://here", "key", cache_salt="ä/ 1", extra_key="x")
    request = SimpleNamespace(cache_salt="ä/ 1", extra_key="x")
    assert identity.of_call(salted.headers()) == identity.of_request(request, {}) is not None
    assert "ä" not in repr(salted)


@pytest.mark.parametrize(
    ("settings", "headers"),
    [
        (Settings(tenant_by="key"), KEYED),
        (Settings(tenant_by="header", tenant_header="x-tenant"), {"x-tenant": "one"}),
    ],
)
def test_a_key_or_a_header_counts_where_it_is_configured(
    settings: Settings, headers: dict[str, str]
) -> None:
    one = of_request(settings, headers)
    assert one is not None and one != of_request(settings, {name: "Bearer x" for name in headers})
    # Salts are the client's own: nobody becomes several tenants by them.
    assert of_request(settings, headers, cache_salt="a") == one
    assert of_request(settings, {}, cache_salt="a") is None
    assert Identity(settings, key=b"k").of_call(headers) == one


@pytest.mark.parametrize("name", ["X-Tenant", "x-tenant", "X-TENANT"])
def test_a_header_is_the_same_in_any_case_in_requests_and_calls(name: str) -> None:
    settings = Settings(tenant_by="header", tenant_header=name)
    one, other = (http_request({"X-Tenant": each}) for each in ("one", "other"))
    found = tenant_in(admitted(settings, one))
    assert found is not None and found != tenant_in(admitted(settings, other))
    assert found == Identity(settings, key=b"k").of_call(one.headers)


def test_what_is_the_servers_own_is_said_by_nobody_else() -> None:
    forged: dict[str, Any] = {**dict.fromkeys(SERVER_FIELDS, "forged"), "kvflow_last": True}
    assert admitted(Settings(), http_request({}), {**forged, "mine": 1}) == {"mine": 1}
    session = http_request({"X-Session-ID": "told"})
    assert admitted(Settings(), session, forged) == {"kvflow_session": "told"}


def test_nobody_becomes_another_tenant_by_saying_so() -> None:
    mine = of_request(Settings(), cache_salt="mine")
    forged = {"custom_params": {"kvflow_tenant": mine, **encode_request(HINT)}}
    assert of_request(Settings(), sampling_params=forged) is None
    forged = {"custom_params": {"kvflow_tenant": mine}}
    assert of_request(Settings(), sampling_params=forged, cache_salt="other") != mine


def test_secrets_cannot_be_told_from_a_tenant() -> None:
    one, two = (Identity(Settings(tenant_by="key")).of_call(KEYED) for _ in range(2))
    assert one != two  # a key of its own for each process
    assert "secret-one" not in str(one)


def test_names_are_hashed_where_that_is_asked_for() -> None:
    doorman = Doorman(allows_nesting=False, identity=Identity(Settings(hash_names=True)))
    request = SimpleNamespace(sampling_params={"custom_params": encode_request(HINT)})
    doorman.admit(request)
    passed = request.sampling_params["custom_params"]
    assert "writer" not in str(passed)
    hint = decode_request(passed)
    assert hint is not None and hint.agent in hint.forecast.steps
    assert hint.workflow == doorman.identity.hidden_name("run") != "run"
    assert hint.app == doorman.identity.hidden_name("app") != "app"


def test_receipts_are_found_by_the_name_and_by_the_hash_that_is_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    identity = Identity(Settings(hash_names=True))
    doorman = Doorman(allows_nesting=False, identity=identity)
    cache = StandaloneCache("kvflow", pool_tokens=99)
    cache.run(range(50), hint=doorman.stamped(HINT))

    async def ask(name: str, message: Any) -> list[Any]:
        return [answer_receipts(cache.cache.tenants, message)]

    monkeypatch.setattr(endpoints, "ask_schedulers", ask)
    app = FastAPI()
    app.include_router(endpoints.make_router(doorman, SimpleNamespace(), []))  # type: ignore[arg-type]
    client = TestClient(app)
    (listed,) = client.get("/kvflow/workflows").json()["workflows"]
    assert listed["workflow"] != "run"
    found = [client.get(f"/kvflow/workflows/{name}") for name in (listed["workflow"], "run", "x")]
    assert [answer.status_code for answer in found] == [200, 200, 404]
    assert found[0].json() == found[1].json()


@pytest.mark.parametrize(
    "given",
    [
        {"tenant_by": "salts"},
        {"tenant_by": "header"},
        {"tenant_by": "header", "tenant_header": "x tenant"},
        {"tenant_header": "x-tenant"},
        {"most_tenants": 0},
        {"tenant_workflows": 0},
        {"hash_names": "yes"},
    ],
)
def test_what_cannot_be_is_refused_at_start(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="|".join(given)):
        Settings(**given)
