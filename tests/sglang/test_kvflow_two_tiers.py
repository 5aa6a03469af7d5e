"""A real server with kvflow and both tiers, whose processes talk msgpack."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint, encode_request
from kvflow_sglang.server_process import ServerProcess
from tests.sglang.agents_in_turn import AGENTS, FLAGS, PREFIX_TOKENS, ROUNDS, call_in_turn
from tests.sglang.kvflow_client import Client, Run, chat_body, completion_body, wait_until

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana" / "kvflow.json"


@pytest.fixture(scope="module")
def client(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    log = tmp_path_factory.mktemp("host") / "server.log"
    flags = [*FLAGS, "--host-tier", "--hicache-ratio", "4", "--enable-metrics"]
    with ServerProcess(tiny_model, flags, log=log) as server:
        yield Client(server.base_url)


def test_less_is_loaded_back(client: Client) -> None:
    run = Run("cycle")
    told = call_in_turn(client, run)
    assert client.counted("expected_host_tokens") > 0
    client.forecast(run.done())
    counts = client.counts()
    assert (counts["expected_device_tokens"], counts["expected_host_tokens"]) == (0, 0)
    untold = call_in_turn(client, None)
    # Nothing is lost from both tiers: every later call finds its prefix, on one or the other.
    warm = slice(AGENTS, None)
    for answers in (told, untold):
        assert all(answer.cached_tokens >= PREFIX_TOKENS for answer in answers[warm])
    loaded = sum(answer.host_tokens for answer in untold[warm])
    assert loaded >= 0.9 * (ROUNDS - 1) * AGENTS * PREFIX_TOKENS
    assert sum(answer.host_tokens for answer in told[warm]) < 0.7 * loaded
    assert [answer.text for answer in told] == [answer.text for answer in untold]


def test_msgpack_carries_hints_and_refuses_what_would_kill_the_scheduler(
    client: Client,
) -> None:
    before = client.counted("hints_accepted")
    nested = {"mine": {"a": {"b": 1}}}
    later = {"v": 1, "workflow": "later", "seq": 0, "waits": {"tool": [1]}}
    for refused in (nested, {**nested, **Run("w").params({"a": 1})}, 5, "kvflow", ["kvflow"]):
        assert client.generate({"custom_params": refused}).status == 400
        assert client.complete("hello").text
    for path, body in (
        ("/v1/completions", completion_body("hello", nested)),
        ("/v1/completions", {**completion_body("hello", nested), "stream": True}),
        ("/v1/chat/completions", chat_body(nested)),
        ("/v1/chat/completions", {**chat_body(nested), "stream": True}),
    ):
        reply = client.post(path, body)
        assert "nests deeper" in json.dumps(reply.body)
        assert client.complete("hello").text
    assert client.counted("hints_accepted") == before
    assert client.generate({"custom_params": {"kvflow": later}}).status == 200
    assert client.counted("hints_accepted") == before + 1
    assert client.forecast(Run("msgpack").hint({"a": None, "b": 3})).body == {"outcome": "accepted"}
    for name in ("later", "msgpack"):
        client.forecast(Hint(name, Forecast(1, {}, done=True)))
    assert client.counted("workflows") == 0


def test_metrics_count_calls_that_are_scraped_between(client: Client) -> None:
    before = _scrape(client)
    run = Run("metrics")
    prompt = "".join(chr(65 + index % 50) for index in range(300))
    for agent in ("a", "b", "a"):
        assert client.complete(prompt, custom_params=run.params({"a": 1, "b": 2}, agent)).text
        _scrape(client)
    wait_until(lambda: _grown(client, before, "sglang:kvflow_hinted_calls_total") == 3)
    assert _grown(client, before, "sglang:kvflow_hints_total") == 3
    assert _grown(client, before, "sglang:kvflow_hinted_prompt_tokens_total") == 3 * len(prompt)
    assert _grown(client, before, "sglang:kvflow_hinted_cached_tokens_total") >= 2 * 200
    client.forecast(run.done())


def test_scrapers_that_never_rest_find_every_call_and_no_more_tables(client: Client) -> None:
    calls = 40
    is_over = threading.Event()

    def scrape() -> list[dict[tuple[str, str], float]]:
        seen = [_scrape(client)]
        while not is_over.is_set():
            for path in ("/kvflow/view?workflow=watched-1", "/kvflow/workflows", "/kvflow/status"):
                assert client.get(path).status == 200
            seen.append(_scrape(client))
        return seen

    def call(number: int) -> str:
        hint = Hint(f"watched-{number}", Forecast(0, {"a": 0, "b": 1}), agent="a")
        params: dict[str, Any] = {"max_new_tokens": 2, "temperature": 0}
        params["custom_params"] = encode_request(hint)
        body = json.dumps({"text": f"number {number % 7} " * 20, "sampling_params": params})
        headers = {"Content-Type": "application/json", "X-Kvflow-Receipt": "yes"}
        request = Request(f"{client.base_url}/generate", body.encode(), headers)
        with urlopen(request) as answer:
            assert json.loads(answer.headers["X-Kvflow-Receipt"])["hint"] == "accepted"
            text: str = json.load(answer)["text"]
        assert client.forecast(Hint(hint.workflow, Forecast(1, {}, done=True))).status == 200
        return text

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(call, range(calls)))
        unwatched = [call(number) for number in range(84, 91)]
        before = _scrape(client)
        scrapers = [pool.submit(scrape) for _ in range(2)]
        try:
            list(pool.map(call, range(calls, 2 * calls)))
            # The same prompts one after another, so that batches are the same too.
            assert [call(number) for number in range(91, 98)] == unwatched
        finally:
            is_over.set()
        seen = [scraper.result() for scraper in scrapers]
    for scrapes in seen:
        for one, next_one in pairwise(scrapes):
            fallen = {at for at, value in one.items() if next_one.get(at, 0.0) < value}
            assert not {name for name, _ in fallen if name.endswith("_total")}
    wait_until(lambda: _grown(client, before, "sglang:kvflow_hinted_calls_total") == calls + 7)
    # As many workflows again, and no series for each of them.
    assert len(_scrape(client)) < len(before) + calls
    assert client.counted("workflows") == 0


def test_the_grafana_dashboard_asks_for_what_the_server_exports(client: Client) -> None:
    call_in_turn(client, Run("dashboard"))
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    names = {name for expression in asked for name in _names_in(expression)}
    assert len(names) > 10
    wait_until(lambda: names <= {name for name, _ in _scrape(client)})
    exported = _scrape(client)
    for expression in asked:
        name = _names_in(expression)[0]
        samples = [labels for each, labels in exported if each == name]
        for label in re.findall(r"(?:by \(|,)(\w+)", expression):
            assert any(f'{label}="' in labels for labels in samples), expression


def _names_in(expression: str) -> list[str]:
    """Of metrics; Prometheus before version 3 gets them with an underscore for the colon."""
    return [f"sglang:{name}" for name in re.findall(r'__name__=~"sglang\.(\w+)"', expression)]


def _scrape(client: Client) -> dict[tuple[str, str], float]:
    """The samples by name and labels."""
    reply = client.get("/metrics")
    assert reply.status == 200
    found = re.findall(r"^([\w:]+)(\{.*\})? (\S+)$", reply.body, re.MULTILINE)
    return {(name, labels): float(value) for name, labels, value in found}


def _grown(client: Client, before: dict[tuple[str, str], float], name: str) -> float:
    now = _scrape(client)
    return sum(value - before.get(at, 0.0) for at, value in now.items() if at[0] == name)
