"""A real server with kvflow, over HTTP: what it caches, what it answers, what it survives."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

import jsonschema_rs
import openai
import pytest

import kvflow_agents
from kvflow_agents import loops
from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import RECEIPT_FIELD, Hint, encode_body, encode_request
from kvflow_sglang.compat import hooks, names
from kvflow_sglang.server_process import ServerProcess
from tests.sglang.agents_in_turn import (
    AGENTS,
    FLAGS,
    POOL_TOKENS,
    PREFIX_TOKENS,
    ROOM,
    ROUNDS,
    TAIL_TOKENS,
    belady_hits,
    call_in_turn,
    prompt_of,
)
from tests.sglang.kvflow_client import Client, Reply, Run, chat_body, completion_body, wait_until

KEY = "sesame"


@pytest.fixture(scope="module")
def client(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Of a server with the device tier alone, and an API key, whose processes talk pickle: as
    SGLang has it, and as who says so keeps it."""
    log = tmp_path_factory.mktemp("device") / "server.log"
    env = {"SGLANG_USE_PICKLE_IPC": "1"}
    with ServerProcess(tiny_model, [*FLAGS, "--api-key", KEY], log=log, env=env) as server:
        yield Client(server.base_url, KEY)


@pytest.fixture
def sdk(client: Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=KEY, max_retries=0) as sdk:
        yield sdk


def test_the_reference_reaches_the_known_optimum() -> None:
    steady = belady_hits([call % AGENTS for call in range(1000)], ROOM) / 1000
    assert steady == pytest.approx((ROOM - 1) / (AGENTS - 1), abs=0.01)


def test_status_tells_what_is_in_charge(client: Client) -> None:
    status = client.status()
    assert status["sglang"] == names.SGLANG_VERSION
    assert status["hooks"] == sorted([*hooks.IN_HTTP_PROCESS, *hooks.IN_SCHEDULER])
    assert len(status["ranks"]) == 1


def test_the_plain_openai_sdk_needs_no_hints(sdk: openai.OpenAI) -> None:
    said = sdk.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hello"}], max_tokens=4, temperature=0
    )
    assert said.choices[0].message.content
    assert said.usage is not None and said.usage.completion_tokens == 4


def test_hints_reach_the_cache_on_every_endpoint(client: Client, sdk: openai.OpenAI) -> None:
    client.flush()
    run = Run("endpoints")
    before = client.counted("hints_accepted")

    def chat(stream: bool) -> None:
        answer = sdk.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=4,
            stream=stream,
            extra_body={"custom_params": run.params({"a": 1}, "a")},
        )
        assert len(list(answer)) > 0

    calls: list[Callable[[], object]] = [
        lambda: client.complete("hello", custom_params=run.params({"a": 1}, "a")),
        lambda: list(
            sdk.completions.create(
                model="tiny",
                prompt="hello",
                max_tokens=4,
                stream=True,
                extra_body={"custom_params": run.params({"a": 1}, "a")},
            )
        ),
        lambda: chat(stream=False),
        lambda: chat(stream=True),
        lambda: client.generate({"custom_params": run.params({"a": 1}, "a")}),
        lambda: client.post("/v1/chat/completions", chat_body(run.params({"a": 1}, "a"))),
    ]
    for number, call in enumerate(calls, 1):
        call()
        assert client.counted("hints_accepted") == before + number
        assert client.counted("expected_device_tokens") > 0
        client.forecast(run.done())
        assert client.counted("expected_device_tokens") == 0
        before += 1


def test_agents_in_turn_find_what_belady_would_have_kept(client: Client) -> None:
    calls = [call % AGENTS for call in range(ROUNDS * AGENTS)]
    optimum = belady_hits(calls, ROOM)
    # What is left of the pool beside whole prefixes holds a part of one more.
    parts_tokens = (len(calls) - optimum) * (POOL_TOKENS - ROOM * PREFIX_TOKENS)
    run = Run("cycle")
    told = call_in_turn(client, run)
    assert client.forecast(run.done()).body == {"outcome": "accepted"}
    untold = call_in_turn(client, None)
    cached = sum(answer.cached_tokens for answer in told)
    most_tokens = optimum * (PREFIX_TOKENS + TAIL_TOKENS) + parts_tokens
    assert 0.9 * optimum * PREFIX_TOKENS <= cached <= most_tokens
    assert sum(answer.cached_tokens for answer in untold) < PREFIX_TOKENS
    # Greedy answers tell whether a cached prefix was the right one.
    assert [answer.text for answer in told] == [answer.text for answer in untold]
    assert len({answer.text for answer in told}) > AGENTS


def test_teams_that_tell_nothing_but_their_prompts_find_more_than_recency_keeps(
    client: Client, sdk: openai.OpenAI
) -> None:
    """Two teams of four take turns, in a pool for five prompts; each quotes what was said last."""
    client.flush()
    cached: list[int] = []
    said = ["", ""]
    before = client.counts()
    for call in range(2 * 4 * 6):
        team, agent = call % 2, call // 2 % 4
        system = prompt_of(4 * team + agent, 0)[:PREFIX_TOKENS]
        answer = sdk.chat.completions.create(
            model="tiny",
            messages=[
                {"role": "system", "content": system},
                {"role": "user", "content": f"{call * 7919 % 1009:03d} {said[team]}"},
            ],
            max_tokens=12,
            temperature=0,
        )
        said[team] = str(answer.choices[0].message.content)
        assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
        cached.append(answer.usage.prompt_tokens_details.cached_tokens or 0)
    counts = client.counts()
    client.flush()  # no forecast of these teams stands any more
    assert counts["inferred_calls"] > before["inferred_calls"]
    assert counts["inferred_errors"] == 0
    assert counts["inferred_agents"] >= 8
    # By recency no system prompt would be found again: seven others have come in between.
    late = cached[len(cached) // 2 :]
    assert sum(tokens >= PREFIX_TOKENS for tokens in late) >= len(late) // 4


@pytest.mark.parametrize(
    "named",
    [
        {"extra_headers": {"X-Session-ID": "s1"}},
        {"extra_body": {"session_id": "s2"}},
        {"extra_headers": {"x-smg-routing-key": "s3"}},
    ],
)
def test_what_clients_name_a_session_is_a_workflow(
    client: Client, sdk: openai.OpenAI, named: dict[str, Any]
) -> None:
    before = client.counted("inferred_workflows")
    for text in ("one thing", "another thing"):
        messages: list[Any] = [{"role": "user", "content": text}]
        sdk.chat.completions.create(model="tiny", messages=messages, max_tokens=4, **named)
    assert client.counted("inferred_workflows") == before + 1


@pytest.mark.parametrize("name", ["user", "prompt_cache_key"])
def test_what_clients_name_otherwise_keeps_histories_apart(
    client: Client, sdk: openai.OpenAI, name: str
) -> None:
    def chat(messages: list[Any], value: str) -> str:
        body = {name: value}
        said = sdk.chat.completions.create(
            model="tiny", messages=messages, max_tokens=4, temperature=0, extra_body=body
        )
        return str(said.choices[0].message.content)

    first = {"role": "user", "content": f"{name}: " + "what is there to say? " * 4}
    before = client.counted("inferred_workflows")
    answer = {"role": "assistant", "content": chat([first], "one")}
    history = [first, answer, {"role": "user", "content": "and then?"}]
    chat(history, "one")
    assert client.counted("inferred_workflows") == before + 1
    chat(history, "another")
    assert client.counted("inferred_workflows") == before + 2


@pytest.mark.parametrize("key", [None, "wrong"])
def test_the_api_key_guards_the_endpoints(client: Client, key: str | None) -> None:
    stranger = Client(client.base_url, key)
    assert stranger.get("/kvflow/status").status == 401
    before = client.counts()
    assert stranger.forecast(Run("stranger").hint({"a": 0})).status == 401
    assert client.counts() == before
    assert client.get("/kvflow/status").status == 200


@pytest.mark.parametrize("name", ["a/b c", "<script>alert(1)</script>", "w" * 128, "流れ?#%2F"])
def test_receipts_of_any_workflow_can_be_read(client: Client, name: str) -> None:
    run = Run(name, app="app")
    path = f"/kvflow/workflows/{quote(name, safe='')}"
    for _ in range(2):
        client.complete("hello" * 20, custom_params=run.params({"<b>": 1}, "<b>"))
    found = client.get(path)
    assert found.status == 200
    (agent,) = found.body["agents"]
    assert (found.body["workflow"], agent["agent"], agent["sums"]["calls"]) == (name, "<b>", 2)
    assert agent["last_calls"][0]["device_tokens"] > 0
    assert found.body["sums"]["forecast_right"] == 1
    newest = client.get("/kvflow/workflows?limit=1").body["workflows"]
    assert [each["workflow"] for each in newest] == [name]
    client.forecast(run.done())
    assert client.get(path).body["done"] is True


def ask(seq: int, agent: str, workflow: str = "receipt") -> dict[str, Any]:
    """What the SDK adds to a call that wants its receipt."""
    hint = Hint(workflow, Forecast(seq, {"b": 1}), agent=agent)
    return {
        "extra_headers": {"X-Kvflow-Receipt": "yes"},
        "extra_body": {"custom_params": encode_request(hint)},
    }


@pytest.mark.parametrize("streams", [False, True])
def test_a_response_has_its_receipt_where_the_client_asks(
    sdk: openai.OpenAI, streams: bool
) -> None:
    workflow = f"receipt, streams: {streams}"
    prompt = f"{workflow} " * 20
    for seq, agent in enumerate("ab"):
        answer = sdk.completions.with_raw_response.create(
            model="tiny", prompt=prompt, max_tokens=2, stream=streams, **ask(seq, agent, workflow)
        )
        receipt = json.loads(answer.headers["x-kvflow-receipt"])
        answer.http_response.read()
        assert (receipt["seq"], receipt["hint"]) == (seq, "accepted")
        assert receipt["forecast_right"] is (None if agent == "a" else True)
        assert receipt["prompt_tokens"] >= len(prompt)
    assert receipt["device_tokens"] >= len(prompt) - 1


@pytest.mark.parametrize("streams", [False, True])
def test_several_samples_are_one_call_and_the_receipt_is_the_first_ones(
    client: Client, sdk: openai.OpenAI, streams: bool
) -> None:
    workflow, stale = f"samples, streams: {streams}", client.counted("hints_stale")
    prompt = f"{streams} samples: " + "abcdefgh" * 20
    answer = sdk.completions.with_raw_response.create(
        model="tiny", prompt=prompt, max_tokens=2, n=3, stream=streams, **ask(1, "a", workflow)
    )
    receipt = json.loads(answer.headers["x-kvflow-receipt"])
    answer.http_response.read()
    assert (receipt["hint"], receipt["device_tokens"]) == ("accepted", 0)
    found = client.get(f"/kvflow/workflows/{quote(workflow)}").body
    assert (found["sums"]["calls"], found["sums"]["device_tokens"]) == (1, 0)
    assert found["agents"][0]["last_calls"] == [receipt]
    assert client.counted("hints_stale") == stale


def test_a_response_tells_why_its_hint_was_refused(sdk: openai.OpenAI) -> None:
    malformed = {"custom_params": {"kvflow": {"v": 1, "workflow": 5, "seq": 1}}}
    answer = sdk.completions.with_raw_response.create(
        model="tiny", prompt="hello", max_tokens=2, **(ask(9, "a") | {"extra_body": malformed})
    )
    receipt = json.loads(answer.headers["x-kvflow-receipt"])
    assert (receipt["hint"], receipt["reason"]) == ("refused", "type")
    assert "workflow" in receipt["message"]


def test_a_report_has_what_the_server_has_counted(client: Client, sdk: openai.OpenAI) -> None:
    kvflow_agents.reset_report()
    with kvflow_agents.workflow("reported", base_urls=[f"{client.base_url}/v1"]):
        for agent in ("planner", "writer") * 2:
            with kvflow_agents.agent(agent):
                sdk.completions.create(model="tiny", prompt=f"{agent} " * 30, max_tokens=2)
    assert loops.adapter.subscriptions.courier.flush(60)
    found = kvflow_agents.report(receipts=True, timeout_s=60)
    assert found.notes == ()
    writer = found["writer"]
    assert writer.receipts is not None and writer.receipts["calls"] == writer.calls == 2
    assert writer.receipts["device_tokens"] == writer.cached_tokens > 0


def test_receipts_of_a_batch_go_each_to_its_own_response_and_into_no_answer(
    client: Client,
) -> None:
    def call(number: int) -> None:
        hint = Hint("receipts of a batch", Forecast(number, {"b": 1}), agent="a")
        # Some hints are overtaken, which the receipt tells.
        params = {"custom_params": encode_request(hint), "max_new_tokens": 8, "temperature": 0}
        body = json.dumps({"text": f"prompt {number}", "sampling_params": params}).encode()
        asks = number % 2 == 0
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        headers |= {"X-Kvflow-Receipt": "yes"} if asks else {}
        request = Request(f"{client.base_url}/generate", body, headers)
        with urlopen(request) as answer:
            receipt = answer.headers["X-Kvflow-Receipt"]
            assert RECEIPT_FIELD not in json.loads(answer.read())["meta_info"]
        assert (receipt is not None) == asks
        assert receipt is None or json.loads(receipt)["seq"] == number

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(16)))


def test_a_response_has_no_receipt_where_nobody_asks_or_none_is_known(sdk: openai.OpenAI) -> None:
    said: dict[str, Any] = {"model": "tiny", "prompt": "hello", "max_tokens": 2}
    asks = ask(9, "a")
    for without in (
        {"extra_body": asks["extra_body"]},
        {"extra_headers": asks["extra_headers"]},
    ):
        answer = sdk.completions.with_raw_response.create(**said, **without)
        assert answer.status_code == 200
        assert "x-kvflow-receipt" not in answer.headers


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/kvflow/status", "/kvflow/status"),
        ("/kvflow/workflows", "/kvflow/workflows"),
        ("/kvflow/workflows/{name}", "/kvflow/workflows/described"),
        ("/kvflow/workflows/{name}", "/kvflow/workflows/described?limit=0"),
        ("/kvflow/workflows/{name}", "/kvflow/workflows/unheard%20of"),
        ("/kvflow/view", "/kvflow/view?workflow=described"),
    ],
)
def test_answers_are_as_the_openapi_document_says(client: Client, path: str, asked: str) -> None:
    params = Run("described").params({"writer": 1, "critic": 2}, "writer")
    client.complete("hello", custom_params=params)
    reply = client.get(asked)
    operation = client.get("/openapi.json").body["paths"][path]["get"]
    said = operation["responses"][str(reply.status)]["content"]["application/json"]
    jsonschema_rs.validate(said["schema"], reply.body)


def test_receipts_are_json_alone(client: Client) -> None:
    client.complete("hi", custom_params=Run("<script>").params({"a": 1}, "a"))
    headers = {"Authorization": f"Bearer {KEY}", "Accept": "text/html"}
    request = Request(f"{client.base_url}/kvflow/workflows/%3Cscript%3E", headers=headers)
    with urlopen(request) as answer:
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert json.loads(answer.read())["workflow"] == "<script>"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/kvflow/workflows/never-called", 404),
        ("/kvflow/workflows/" + "x" * 5000, 404),
        ("/kvflow/workflows?limit=0", 400),
        ("/kvflow/workflows?limit=101", 400),
        ("/kvflow/workflows?offset=-1", 400),
    ],
)
def test_receipts_that_cannot_be_are_refused(client: Client, path: str, status: int) -> None:
    assert client.get(path).status == status
    assert Client(client.base_url, None).get(path).status == 401


def test_a_forecast_needs_no_request_and_done_frees_what_it_protects(client: Client) -> None:
    client.flush()
    run = Run("forecasts")
    client.complete(prompt_of(0, 0), custom_params=run.params({"a": 2}, "a"))
    protected = client.counted("expected_device_tokens")
    assert protected >= PREFIX_TOKENS
    assert client.forecast(run.hint({"a": None})).body == {"outcome": "accepted"}
    assert client.counted("expected_device_tokens") == 0
    newer = run.hint({"a": 1})
    assert client.forecast(newer).body == {"outcome": "accepted"}
    assert client.counted("expected_device_tokens") == protected
    for old in (newer, Hint("forecasts", Forecast(0, {"a": None}))):
        assert client.forecast(old).body == {"outcome": "stale"}
    assert client.counted("expected_device_tokens") == protected
    assert client.forecast(run.done()).body == {"outcome": "accepted"}
    assert client.forecast(newer).body == {"outcome": "ended"}
    counts = client.counts()
    assert (counts["workflows"], counts["expected_device_tokens"]) == (0, 0)


def of_hints(counts: dict[str, int]) -> dict[str, int]:
    """The counts that requests without a hint leave alone."""
    others = ("device_leaves", "inferred_", "shadow_")
    return {name: count for name, count in counts.items() if not name.startswith(others)}


GOOD = encode_body(Hint("bad", Forecast(0, {"a": 1}), agent="a"))
DEEP = '{"steps":' + '{"a":' * 50_000 + "1" + "}" * 50_001
BAD_BODIES: list[tuple[str, bytes, int, str]] = [
    ("nothing", b"", 400, "type"),
    ("no JSON", b"steps", 400, "type"),
    ("no text", b"\xff\xfe\x00", 400, "type"),
    ("deep", DEEP.encode(), 400, "type"),
    ("no object", b"[1]", 400, "type"),
    ("null", b"null", 400, "type"),
    ("another version", json.dumps({**GOOD, "v": 2}).encode(), 400, "version"),
    ("no workflow", json.dumps({**GOOD, "workflow": None}).encode(), 400, "type"),
    ("an empty name", json.dumps({**GOOD, "workflow": ""}).encode(), 400, "name"),
    ("control characters", json.dumps({**GOOD, "workflow": "a\x00\n"}).encode(), 400, "name"),
    ("a surrogate", json.dumps({**GOOD, "workflow": "a\ud800"}).encode(), 400, "name"),
    ("a surrogate in steps", json.dumps({**GOOD, "steps": {"\ud800": 1}}).encode(), 400, "name"),
    ("seq as text", json.dumps({**GOOD, "seq": "1"}).encode(), 400, "type"),
    ("seq as true", json.dumps({**GOOD, "seq": True}).encode(), 400, "type"),
    ("huge seq", json.dumps({**GOOD, "seq": 2**63}).encode(), 400, "range"),
    ("more digits than Python reads", b'{"v": ' + b"9" * 5000 + b"}", 400, "type"),
    ("done as text", json.dumps({**GOOD, "done": "yes"}).encode(), 400, "type"),
    ("steps as list", json.dumps({**GOOD, "steps": ["a"]}).encode(), 400, "type"),
    ("fractional steps", json.dumps({**GOOD, "steps": {"a": 1.5}}).encode(), 400, "type"),
    ("NaN", json.dumps({**GOOD, "steps": {"a": float("nan")}}).encode(), 400, "type"),
    ("infinity", json.dumps({**GOOD, "steps": {"a": float("inf")}}).encode(), 400, "type"),
    ("negative steps", json.dumps({**GOOD, "steps": {"a": -1}}).encode(), 400, "range"),
    ("huge steps", json.dumps({**GOOD, "steps": {"a": 2**62}}).encode(), 400, "range"),
    ("a long name", json.dumps({**GOOD, "workflow": "w" * 129}).encode(), 413, "size"),
    (
        "too many agents",
        json.dumps({**GOOD, "steps": {f"a{number}": 1 for number in range(5000)}}).encode(),
        413,
        "size",
    ),
    (
        "10 MB",
        json.dumps({**GOOD, "steps": {f"{n:0200d}": 1 for n in range(50_000)}}).encode(),
        413,
        "size",
    ),
]


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [bad[1:] for bad in BAD_BODIES],
    ids=[bad[0] for bad in BAD_BODIES],
)
def test_a_malformed_forecast_is_refused_with_its_reason(
    client: Client, body: bytes, status: int, reason: str
) -> None:
    refused, counts = Counter(client.refused()), client.counts()
    reply = client.send("/kvflow/forecast", body)
    assert reply.status == status, reply
    assert reply.body["error"]["reason"] == reason
    assert reply.body["error"]["message"]
    assert client.refused() == refused + Counter({reason: 1})
    assert client.complete("hello").text
    assert of_hints(client.counts()) == of_hints(counts)


# The same hints on a request; NaN and surrogates SGLang refuses itself, as no JSON.
BAD_HINTS = [
    (name, json.loads(body), reason)
    for name, body, _, reason in BAD_BODIES
    if name.split()[0] in ("another", "control", "seq", "huge", "steps", "negative", "10", "too")
]


@pytest.mark.parametrize(
    ("fields", "reason"), [bad[1:] for bad in BAD_HINTS], ids=[bad[0] for bad in BAD_HINTS]
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/generate"])
def test_a_malformed_hint_costs_its_request_nothing(
    client: Client, path: str, fields: dict[str, Any], reason: str
) -> None:
    refused, counts = Counter(client.refused()), client.counts()
    steps = fields.pop("steps")
    params = {"kvflow": fields, "kvflow_steps": steps}
    fields["steps"] = steps  # parametrized once, used for each path
    bodies: dict[str, Callable[[object], Reply]] = {
        "/v1/completions": lambda params: client.post(path, completion_body("hello", params)),
        "/v1/chat/completions": lambda params: client.post(path, chat_body(params)),
        "/generate": lambda params: client.generate({"custom_params": params}),
    }
    assert bodies[path](params).status == 200
    assert client.refused() == refused + Counter({reason: 1})
    assert bodies[path](None).status == 200
    assert of_hints(client.counts()) == of_hints(counts)


@pytest.mark.parametrize("params", [5, "kvflow", ["kvflow"], [{"kvflow": 1}], True, {}, None])
def test_custom_params_that_are_no_object_cost_nothing(client: Client, params: object) -> None:
    assert client.generate({"custom_params": params}).status == 200
    assert client.complete("hello").text


def test_json_that_sglang_itself_refuses_leaves_it_running(client: Client) -> None:
    for params in ({"kvflow_steps": {"a": float("nan")}}, {"kvflow": {"workflow": "\ud800"}}):
        reply = client.post("/v1/completions", completion_body("hello", params))
        assert reply.status in (200, 400)
        assert client.complete("hello").text
    deep = json.dumps(completion_body("hello", "DEEP")).replace('"DEEP"', DEEP)
    assert client.send("/v1/completions", deep.encode()).status in (200, 400, 500)
    assert client.complete("hello").text


def test_unknown_agents_and_old_forecasts_on_requests_change_nothing(client: Client) -> None:
    client.flush()
    run = Run("old")
    first = run.params({"a": 1}, "a")
    client.complete(prompt_of(0, 0), custom_params=first)
    newest = run.params({"a": 1}, "nobody has heard of")
    client.complete(prompt_of(1, 0), custom_params=newest)
    before = client.counts()
    for repeated in (first, newest):
        client.complete("hello", custom_params=repeated)
    after = client.counts()
    assert after["hints_stale"] == before.get("hints_stale", 0) + 2
    assert after["hints_accepted"] == before["hints_accepted"]
    client.forecast(run.done())
    client.complete(prompt_of(2, 0), custom_params=newest)
    counts = client.counts()
    assert counts["hints_ended"] == before.get("hints_ended", 0) + 1
    assert (counts["workflows"], counts["expected_device_tokens"]) == (0, 0)


def test_flushing_the_cache_forgets_and_goes_on(client: Client) -> None:
    run = Run("flushed")
    for call in range(3):
        steps = {"a": 1, "b": 2}
        client.complete(prompt_of(0, call), custom_params=run.params(steps, "a"))
        client.complete(prompt_of(1, call), custom_params=run.params(steps, "b"))
        assert client.counted("expected_device_tokens") >= 2 * PREFIX_TOKENS
        client.flush()
        counts = client.counts()
        assert counts["workflows"] == counts["agents"] == counts["device_leaves"] == 0
        assert counts["expected_device_tokens"] == 0
    assert client.forecast(run.done()).body == {"outcome": "accepted"}


def test_a_client_that_hangs_up_leaves_nothing_behind(client: Client) -> None:
    client.flush()
    run = Run("hung up")
    body = completion_body("hello, ", run.params({"a": 1}, "a"), max_tokens=2000)
    address = urlsplit(client.base_url)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    connection.request("POST", "/v1/completions", json.dumps({**body, "stream": True}), headers)
    response = connection.getresponse()
    assert response.readline().startswith(b"data:")
    response.close()
    connection.close()
    # The cache can be flushed only once the request has been ended.
    assert client.forecast(run.hint({"a": 0})).body == {"outcome": "accepted"}
    client.flush()
    assert client.forecast(run.done()).body == {"outcome": "accepted"}
    assert client.counted("expected_device_tokens") == 0
    assert client.complete("hello").text


def has_heard(client: Client, hints: int) -> bool:
    return client.counted("hints_accepted") == hints


def test_a_request_named_like_a_hinted_one_that_never_ran_is_answered(client: Client) -> None:
    client.flush()
    before = client.counted("hints_accepted")
    run = Run("given up")
    with ThreadPoolExecutor(2) as pool:
        # There is room for the first alone.
        for number, rid in enumerate(("runs", "waits"), 1):
            params = run.params({"a": 1}, "a")
            fills_pool = {"max_new_tokens": 2000, "ignore_eos": True, "custom_params": params}
            pool.submit(client.generate, fills_pool, rid=rid)
            wait_until(partial(has_heard, client, before + number))
        for rid in ("waits", "runs"):
            assert client.post("/abort_request", {"rid": rid}).status == 200
    assert client.generate({}, rid="waits").status == 200
    assert client.complete("hello").text
    assert client.forecast(run.done()).body == {"outcome": "accepted"}


def test_workflows_in_step_are_waited_for_and_answered_alike(client: Client) -> None:
    client.flush()
    runs = [Run(f"in step {number}") for number in range(4)]
    alone = [client.complete(prompt_of(agent, 0)[:100]).text for agent in range(len(runs))]
    before = client.counts()

    def call(number: int) -> str:
        params = runs[number].params({"a": 1}, "a")
        return client.complete(prompt_of(number, 0)[:100], custom_params=params).text

    with ThreadPoolExecutor(len(runs)) as pool:
        for _ in range(12):
            assert list(pool.map(call, range(len(runs)))) == alone
    after = client.counts()
    assert after["gathered_requests"] > before["gathered_requests"]
    for run in runs:
        client.forecast(run.done())


def test_all_of_many_requests_at_once_are_answered(client: Client) -> None:
    client.flush()
    alone = {agent: client.complete(prompt_of(agent, 0)).text for agent in range(AGENTS)}
    runs = [f"parallel{number}" for number in range(8)]

    def send(number: int) -> str:
        agent, run = number % AGENTS, runs[number % len(runs)]
        kind = number % 4
        params: object = None
        if kind == 1:
            params = {"kvflow": {"v": 1, "workflow": run, "seq": -number}, "kvflow_steps": []}
        elif kind > 1:
            steps = {f"agent{each}": (each + number) % AGENTS for each in range(AGENTS)}
            hint = Hint(run, Forecast(number, steps), agent=f"agent{agent}", app="parallel")
            if number % 7 == 0:
                assert client.forecast(hint).status == 200
            params = encode_request(hint)
        return client.complete(prompt_of(agent, 0), custom_params=params).text

    with ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(send, range(200)))
    assert texts == [alone[number % AGENTS] for number in range(200)]
    # These forecasts contradict each other and what then happens.
    assert client.counted("distrusted_workflows") > 0
    for run in runs:
        assert client.forecast(Hint(run, Forecast(1000, {}, done=True))).status == 200
    counts = client.counts()
    assert counts["workflows"] == counts["expected_device_tokens"] == 0
    wait_until(lambda: client.counted("device_leaves") > 0)
    client.flush()
