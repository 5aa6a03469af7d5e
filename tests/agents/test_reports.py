"""The report, on the real OpenAI SDK against a real server on this machine."""

from __future__ import annotations

import gc
import io
import json
import pickle
import threading
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai._base_client import AsyncAPIClient, SyncAPIClient
from rich.console import Console

import kvflow_agents
from kvflow_agents import AgentReport, Call, Carrier
from kvflow_agents.call_records import (
    MAX_UNCOUNTED,
    CallRecords,
    CallUnderWay,
    Limits,
    call_records,
)
from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint
from kvflow_agents.reports import report
from kvflow_agents.servers import Server
from tests.agents.fake_server import FakeServer
from tests.fake_openai import FakeOpenAI

MESSAGES: Any = [{"role": "user", "content": "hello"}]
SERVER = Server("http://server")


class Told:
    """A workflow that says what it is told to."""

    def __init__(self) -> None:
        self.seq = 0
        self.said: dict[str, Any] = {"steps": {"writer": 0}}

    def hint(self, agent: str) -> Hint:
        self.seq += 1
        return Hint("run", Forecast(seq=self.seq, **self.said), agent, "app")


@pytest.fixture
def model() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as model:
        model.prompt_tokens, model.cached_tokens = 100, 80
        yield model


@pytest.fixture
def client(model: FakeOpenAI) -> Iterator[openai.OpenAI]:
    carrier = Carrier(lambda: Call(Told(), "writer"), [model.base_url])
    carrier.install()
    with openai.OpenAI(base_url=model.base_url, api_key="key") as client:
        yield client
    carrier.uninstall()
    assert carrier.failsafe.errors == 0


@pytest.fixture
async def async_client(client: openai.OpenAI) -> Any:
    async with openai.AsyncOpenAI(base_url=client.base_url, api_key="key") as async_client:
        yield async_client


@pytest.fixture(autouse=True)
def nothing_before() -> Iterator[None]:
    kvflow_agents.reset_report()
    yield
    kvflow_agents.reset_report()


def writer() -> AgentReport:
    return kvflow_agents.report()["writer"]


def chat(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(model="m", messages=MESSAGES, **options)


def counts() -> tuple[int, int, int, int]:
    """Calls, those with a latency, prompt tokens, cached tokens."""
    ended = sum(calls.ended_calls for _, _, calls in call_records.agents())
    return writer().calls, ended, writer().prompt_tokens, writer().cached_tokens


def test_a_call_is_counted_with_what_it_used(client: openai.OpenAI) -> None:
    chat(client)
    chat(client)
    assert counts() == (2, 2, 200, 160)
    assert writer().hit_rate == 0.8
    assert writer().errors == 0
    assert writer().first_token is None
    assert [usage.cached_tokens for usage in writer().usages] == [80, 80]
    times = writer().latency
    assert times is not None and 0 < times.p50_s <= times.p95_s


def test_what_a_server_does_not_say_is_unknown(client: openai.OpenAI, model: FakeOpenAI) -> None:
    model.cached_tokens = None
    chat(client)
    assert (writer().prompt_tokens, writer().hit_rate) == (100, None)
    model.cached_tokens = 0
    chat(client)
    assert (writer().prompt_tokens, writer().hit_rate) == (200, 0.0)


def test_a_stream_counts_when_it_ends(client: openai.OpenAI) -> None:
    stream = chat(client, stream=True)
    next(stream)
    assert counts() == (1, 0, 0, 0)
    assert [chunk.choices[0].delta.content for chunk in stream][-2:] == ["k", None]
    assert counts() == (1, 1, 100, 80)  # though every chunk has said so
    assert writer().first_token is not None


def test_a_stream_counts_when_it_is_closed(client: openai.OpenAI) -> None:
    with chat(client, stream=True) as stream:
        next(stream)
    assert counts() == (1, 1, 100, 80)
    assert "close" not in vars(stream.response)


def test_a_stream_counts_when_it_is_left_alone(client: openai.OpenAI) -> None:
    for _ in chat(client, stream=True):
        break
    gc.collect()
    assert counts() == (1, 1, 100, 80)


def test_the_sdks_own_stream_of_events_counts(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="m", messages=MESSAGES) as stream:
        assert stream.get_final_completion().choices[0].message.content == "ok"
    assert counts() == (1, 1, 100, 80)


def test_usage_is_not_asked_for(client: openai.OpenAI, model: FakeOpenAI) -> None:
    list(chat(client, stream=True))
    assert "stream_options" not in model.requests[0].body


def test_a_raw_response_counts_when_it_is_parsed(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
    assert counts() == (1, 1, 0, 0)
    first = raw.parse()
    assert "parse" not in vars(raw)  # it is the SDK's again, and holds nothing of ours
    assert raw.parse() is first
    assert first.choices[0].message.content == "ok"
    assert counts() == (1, 1, 100, 80)


def test_a_raw_response_counts_when_it_is_parsed_after_a_failure(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
    with pytest.raises(RuntimeError, match="Unsupported type"):
        raw.parse(to=complex)
    assert counts() == (1, 1, 0, 0)
    raw.parse()
    assert counts() == (1, 1, 100, 80)


def test_a_raw_stream_counts_when_it_ends(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="m", messages=MESSAGES, stream=True
    )
    stream = raw.parse()
    assert counts() == (1, 0, 0, 0)
    assert len(list(stream)) == 4
    assert raw.parse() is stream
    assert counts() == (1, 1, 100, 80)


def test_a_streamed_response_counts_when_it_is_closed(client: openai.OpenAI) -> None:
    completions = client.chat.completions.with_streaming_response
    with completions.create(model="m", messages=MESSAGES) as response:
        assert counts() == (1, 0, 0, 0)
        assert response.parse().choices[0].message.content == "ok"
    assert counts() == (1, 1, 100, 80)


async def test_asynchronous_calls_count(async_client: openai.AsyncOpenAI) -> None:
    completions = async_client.chat.completions
    await completions.create(model="m", messages=MESSAGES)
    assert counts() == (1, 1, 100, 80)
    stream = await completions.create(model="m", messages=MESSAGES, stream=True)
    assert len([chunk async for chunk in stream]) == 4
    assert counts() == (2, 2, 200, 160)
    async with await completions.create(model="m", messages=MESSAGES, stream=True) as stream:
        await anext(stream)
    assert counts() == (3, 3, 300, 240)
    raw = await completions.with_raw_response.create(model="m", messages=MESSAGES)
    raw.parse()
    assert counts() == (4, 4, 400, 320)
    streaming = completions.with_streaming_response
    async with streaming.create(model="m", messages=MESSAGES) as response:
        await response.parse()
    assert counts() == (5, 5, 500, 400)


def test_answers_are_those_of_the_sdk(client: openai.OpenAI) -> None:
    ours = chat(client)
    assert type(ours) is openai.types.chat.ChatCompletion
    assert pickle.loads(pickle.dumps(ours)) == ours
    assert type(chat(client, stream=True)) is openai.Stream


def test_retries_are_one_call_and_failures_are_errors(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for client_class in (SyncAPIClient, AsyncAPIClient):
        monkeypatch.setattr(client_class, "_calculate_retry_timeout", lambda *_, **__: 0.0)
    carrier = Carrier(lambda: Call(Told(), "writer"), [server.base_url])
    carrier.install()
    with openai.OpenAI(base_url=server.base_url, api_key="key") as client:
        server.statuses.extend([500, 500])
        chat(client)
        assert (writer().calls, writer().errors) == (1, 0)
        server.statuses.append(401)
        with pytest.raises(openai.AuthenticationError):
            chat(client)
        assert (writer().calls, writer().errors) == (2, 1)
        server.statuses.append(422)  # refused for its hint, and made again without
        chat(client)
        assert (writer().calls, writer().errors) == (3, 1)
    carrier.uninstall()


def test_our_own_failure_changes_no_answer(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("ours")

    plain = [chat(client), [*chat(client, stream=True)]]
    for broken in ("answer", "use", "end"):
        with monkeypatch.context() as patch:
            patch.setattr(CallUnderWay, broken, fail)
            assert [chat(client), [*chat(client, stream=True)]] == plain
    monkeypatch.setattr(CallRecords, "begin", fail)
    assert [chat(client), [*chat(client, stream=True)]] == plain


def test_forecasts_are_held_against_what_came() -> None:
    records, told = CallRecords(), Told()
    told.said = {"steps": {"a": 0, "b": 1, "c": 2}, "due_ms": {"b": 2000}}
    records.begin(told.hint("a"), SERVER, 100.0)
    told.said = {"steps": {"a": None, "b": 0, "c": 1, "d": 2}}
    records.begin(told.hint("b"), SERVER, 103.0)
    records.begin(told.hint("d"), SERVER, 104.0)  # c was to come first
    told.said = {"steps": {"d": 0}, "changes": True}
    records.begin(told.hint("d"), SERVER, 105.0)
    records.begin(told.hint("a"), SERVER, 106.0)  # not to call again, as far as was told
    by_agent = {each.agent: each.forecast for each in report(records=records).agents}
    assert {name: (each.right, each.wrong) for name, each in by_agent.items()} == {
        "a": (0, 1),
        "b": (1, 0),
        "d": (0, 2),
    }
    assert by_agent["b"].timed == 1
    assert by_agent["b"].mean_abs_s == by_agent["b"].mean_late_s == pytest.approx(1.0)
    assert by_agent["a"].mean_abs_s is None


def test_agents_of_two_apps_are_told_apart() -> None:
    records = CallRecords()
    for app in ("one", "two", "two"):
        hint = Hint(app, Forecast(seq=0, steps={}), "writer", app)
        records.begin(hint, SERVER, 0.0)
    found = report(records=records)
    assert [(each.app, each.calls) for each in found.agents] == [("one", 1), ("two", 2)]
    assert "writer (two)" in str(found)
    with pytest.raises(KeyError):
        found["editor"]


def test_what_is_kept_is_bounded() -> None:
    records = CallRecords(Limits(most_agents=2, most_workflows=2, last_calls=3))
    for number in range(5):
        for name in ("a", "b", f"c{number}", "b"):
            hint = Hint(f"run {number}", Forecast(seq=number, steps={}), name)
            call = records.begin(hint, SERVER, 0.0)
            call.use(10, 5)
            call.end()
    found = report(records=records)
    assert [each.agent for each in found.agents] == ["c4", "b"]
    assert len(found["b"].usages) == 3
    assert [name for name, _, _ in records.workflows()] == ["run 3", "run 4"]


def test_calls_of_many_threads_are_all_counted_though_nobody_looks() -> None:
    records = CallRecords()
    hint = Hint("run", Forecast(seq=0, steps={}), "writer")

    def call() -> None:
        for _ in range(250):
            made = records.begin(hint, SERVER, time.perf_counter())
            made.use(10, 5)
            made.end()

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(records._events) < 3 * MAX_UNCOUNTED
    ((_, _, calls),) = records.agents()
    assert (calls.calls, calls.ended_calls, calls.prompt_tokens) == (1000, 1000, 10_000)


def test_a_call_took_as_long_as_it_did_whenever_it_is_counted() -> None:
    records = CallRecords()
    call = records.begin(
        Hint("run", Forecast(seq=0, steps={}), "writer"), SERVER, time.perf_counter()
    )
    call.end()
    time.sleep(0.2)
    took = report(records=records)["writer"].latency
    assert took is not None and took.mean_s < 0.1


def test_a_call_that_ends_while_others_are_counted_does_not_wait() -> None:
    records = CallRecords()
    calls = [
        records.begin(Hint("run", Forecast(seq=0, steps={}), "writer"), SERVER, 0.0)
        for _ in range(MAX_UNCOUNTED)
    ]
    with records._lock:  # as a finalizer does that runs where its thread holds it
        for call in calls:
            call.end()
    ((_, _, counted),) = records.agents()
    assert counted.ended_calls == MAX_UNCOUNTED


def test_a_report_is_a_table_and_json(client: openai.OpenAI) -> None:
    assert str(kvflow_agents.report()).startswith("agent")
    chat(client)
    found = kvflow_agents.report()
    heading, row = str(found).splitlines()
    assert heading.split()[:2] == ["agent", "calls"]
    assert row.split()[:6] == ["writer", "1", "0", "100", "80", "80%"]
    (agent,) = json.loads(found.to_json())["agents"]
    assert (agent["agent"], agent["hit_rate"], agent["receipts"]) == ("writer", 0.8, None)
    assert agent["usages"][0]["prompt_tokens"] == 100
    out = io.StringIO()
    Console(file=out, width=160).print(found)
    assert "writer" in out.getvalue()


def test_names_are_shown_as_they_are() -> None:
    records = CallRecords()
    records.begin(Hint("run", Forecast(seq=0, steps={}), "[red]x[/]"), SERVER, 0.0)
    out = io.StringIO()
    Console(file=out, width=160).print(report(records=records))
    assert "[red]x[/]" in out.getvalue()


def test_a_reset_forgets(client: openai.OpenAI) -> None:
    stream = chat(client, stream=True)
    kvflow_agents.reset_report()
    list(stream)
    assert kvflow_agents.report().agents == ()
