"""What the cache notes of each call: where its prompt was found, and what was loaded for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvflow_agents.eviction import Standing
from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import RECEIPT_FIELD, Hint, encode_request
from kvflow_sglang.messages import ReceiptsRequest, answer_receipts
from kvflow_sglang.standalone import StandaloneCache
from tests.sglang.slow_link import SlowLink

PREFIX = list(range(1000, 1100))


def hint(seq: int, agent: str = "a", **steps: int | None) -> Hint:
    return Hint("w", Forecast(seq, steps), agent=agent)


def receipts_of(cache: StandaloneCache) -> dict[str, Any]:
    tenants = cache.cache.tenants
    found: dict[str, Any] = json.loads(answer_receipts(tenants, ReceiptsRequest(workflow="w")).json)
    return found


def test_a_call_is_noted_with_what_was_cached() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=1000)
    cache.run([*PREFIX, 1], [7, 8], hint=hint(0, b=1))
    assert cache.run([*PREFIX, 2], [7, 8], hint=hint(1, "b", a=1)) == len(PREFIX)
    sums = receipts_of(cache)["sums"]
    assert (sums["calls"], sums["prompt_tokens"]) == (2, 202)
    assert (sums["device_tokens"], sums["host_tokens"]) == (100, 0)
    assert (sums["forecast_right"], sums["forecast_wrong"]) == (1, 0)


def test_the_receipt_of_a_call_that_wants_it_goes_beside_its_first_output() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=1000)
    for seq, asked in enumerate(({}, {RECEIPT_FIELD: 17}, {RECEIPT_FIELD: 18})):
        params = encode_request(hint(seq, a=1)) | asked
        request = cache.arrive([*PREFIX, seq], custom_params=params)
        cache.serve(request)
        sent = request.customized_info or {}
        assert sent.keys() == asked.keys()
        if asked:
            ((number, receipt),) = sent[RECEIPT_FIELD]
            assert number == asked[RECEIPT_FIELD]
            assert json.loads(receipt) == receipts_of(cache)["agents"][0]["last_calls"][0]


def test_unhinted_and_malformed_calls_leave_no_receipt() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=1000)
    cache.run([*PREFIX, 1])
    cache.run([*PREFIX, 2], hint=Hint("", Forecast(0, {}), agent="a"))
    assert cache.cache.outcomes == {"refused_name": 1}
    assert cache.cache.tenants.anonymous.receipts.workflows()["total"] == 0
    assert cache.cache.tenants.anonymous.receipts.totals.calls == 0


@pytest.mark.parametrize("params", [None, {"other": 1}])
def test_a_request_named_like_a_hinted_one_that_never_ran_has_no_receipt(params: Any) -> None:
    cache = StandaloneCache("kvflow", pool_tokens=1000)
    gone = cache.arrive([*PREFIX, 1], hint=hint(0, a=1))
    other = cache.arrive([*PREFIX, 2], custom_params=params)
    other.rid = gone.rid
    cache.serve(other)
    assert receipts_of(cache)["sums"]["calls"] == 0
    cache.serve(gone)
    assert receipts_of(cache)["sums"]["calls"] == 1


def test_a_workflow_whose_forecasts_fail_is_seen_to_be_distrusted() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=1000)
    for seq in range(4):
        cache.run([*PREFIX, seq], hint=hint(seq, a=None, b=1))
    calls = receipts_of(cache)["agents"][0]["last_calls"]
    assert [call["hint"] for call in reversed(calls)] == [*["accepted"] * 2, *["distrusted"] * 2]
    assert [call["reason"] for call in calls] == [*["forecasts_failed"] * 2, None, None]
    assert cache.cache.status()["distrusted_workflows"] == 1
    cache.cache.tenants.anonymous.foresight.check()


def test_who_is_disregarded_by_the_guard_is_told_so() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=1000)
    cache.run([*PREFIX, 0], hint=hint(0, a=1))
    cache.cache.tenants.anonymous.foresight.heed(False)
    cache.run([*PREFIX, 1], hint=hint(1, a=1))
    call, before = receipts_of(cache)["agents"][0]["last_calls"]
    assert (before["hint"], before["reason"]) == ("accepted", None)
    assert (call["hint"], call["reason"]) == ("distrusted", "guard_tripped")


def test_a_call_tells_whether_its_workflow_had_more_than_the_expected_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KVFLOW_CONFIG", '{"expected_share": 0.1}')
    cache = StandaloneCache("kvflow", pool_tokens=1000)
    prompts = {agent: [ord(agent) * 1000 + each for each in range(80)] for agent in "ab"}
    for seq, agent in enumerate("abab"):
        cache.run([*prompts[agent], seq], hint=hint(seq, agent, a=1, b=1))
    # Of both agents 160 tokens are kept, and 100 are their share.
    by_agent = {row["agent"]: row["last_calls"] for row in receipts_of(cache)["agents"]}
    clipped = {agent: [call["clipped"] for call in calls] for agent, calls in by_agent.items()}
    assert clipped == {"a": [True, False], "b": [True, False]}
    assert receipts_of(cache)["sums"]["clipped"] == 2


def test_a_call_tells_what_was_said_of_it_and_how_late_it_was() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=1000)
    said = Forecast(0, {"a": 0, "b": 2}, due_ms={"b": 700})
    cache.run([*PREFIX, 0], hint=Hint("w", said, agent="a", at_ms=5000))
    cache.run([*PREFIX, 1], hint=Hint("w", Forecast(1, {"b": 0}), agent="b", at_ms=5900))
    (call,) = receipts_of(cache)["agents"][0]["last_calls"]
    assert (call["predicted_steps"], call["predicted_due_ms"], call["late_ms"]) == (2, 700, 200)


def test_evicted_tokens_are_counted_by_why_they_were_kept() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=1000)
    cache.run([*PREFIX, 1], hint=hint(0, a=1))
    cache.run([*PREFIX, 2], hint=hint(1, a=1))
    cache.run(range(5000, 5050))
    evicted = [cache.evict(2), cache.evict(50), cache.evict(100)]
    counted = cache.cache.evicted_tokens
    assert counted["device", Standing.SPENT] == evicted[0] == 2
    assert counted["device", Standing.ORDINARY] == evicted[1] == 50
    assert counted["device", Standing.EXPECTED] == evicted[2] == 100
    assert sum(counted.values()) == 152


@pytest.fixture
def demoted() -> StandaloneCache:
    """Two agents that have called, and whose prefixes are on the host only."""
    cache = StandaloneCache("kvflow", pool_tokens=1000, host_ratio=4.0)
    for seq, agent in enumerate("abab"):
        prompt = [ord(agent) * 1000 + each for each in range(300)]
        cache.run([*prompt, seq], hint=hint(seq, agent, a=90, b=90))
    cache.one_pass()
    cache.cache.hear(hint(4, a=90, b=90))
    cache.evict(1000)
    return cache


def test_a_load_on_demand_is_told_from_a_prefetch(demoted: StandaloneCache) -> None:
    prompts = {agent: [ord(agent) * 1000 + each for each in range(300)] for agent in "ab"}
    demoted.cache.hear(Hint("w", Forecast(5, {"a": 1, "b": 90})))
    while demoted.cache.prefetcher.tokens_under_way or demoted.match(
        prompts["a"]
    ).device_prefix_len < len(prompts["a"]):
        demoted.one_pass()
    demoted.run([*prompts["a"], 5], hint=hint(6, "a", a=90, b=90))
    demoted.run([*prompts["b"], 6], hint=hint(7, "b", a=90, b=90))
    by_agent = {row["agent"]: row["last_calls"][0] for row in receipts_of(demoted)["agents"]}
    found = {
        agent: (call["device_tokens"], call["host_tokens"], call["prefetched_tokens"])
        for agent, call in by_agent.items()
    }
    assert found == {"a": (300, 0, 300), "b": (0, 300, 0)}


def test_what_was_prefetched_and_evicted_unread_is_wasted_at_once(
    demoted: StandaloneCache,
) -> None:
    demoted.cache.hear(Hint("w", Forecast(5, {"a": 1, "b": 90})))
    prefetcher = demoted.cache.prefetcher
    prefix = [ord("a") * 1000 + each for each in range(300)]
    while demoted.match(prefix).device_prefix_len < len(prefix):
        demoted.one_pass()
    assert prefetcher.counts["prefetch_wasted_tokens"] == 0
    demoted.match([*prefix[:120], 5])  # cuts the node that was loaded
    demoted.evict(1000)
    assert prefetcher.counts["prefetch_wasted_tokens"] == 300
    assert prefetcher.counts["prefetched_tokens"] == 300
    demoted.run([*prefix, 6], hint=hint(6, "a", a=90, b=90))
    by_agent = {row["agent"]: row for row in receipts_of(demoted)["agents"]}
    assert by_agent["a"]["sums"]["wasted_tokens"] == 300
    assert by_agent["a"]["last_calls"][0]["wasted_tokens"] == 300
    assert by_agent["b"]["sums"]["wasted_tokens"] == 0
    assert receipts_of(demoted)["sums"]["wasted_tokens"] == 300


def should_wait(cache: StandaloneCache, request: Any) -> bool:
    """As the scheduler asks, after it has matched the request."""
    found = cache.match(request.origin_input_ids[:-1])
    request.best_match_node, request.host_hit_length = found.best_match_node, found.host_hit_length
    waits: bool = cache.cache.prefetcher.should_wait(request, others_can_run=True)
    return waits


def test_waste_is_its_tenants_own() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=1000, host_ratio=4.0)
    for seq in range(3):
        for number, tenant in enumerate(("x", "y")):
            prompt = [*range(1000 * (1 + number), 1000 * (1 + number) + 300), seq]
            told = Hint("w", Forecast(seq, {"a": 90}), agent="a")
            cache.run(prompt, hint=told, tenant=tenant)
    cache.one_pass()
    cache.evict(1000)
    cache.cache.hear(Hint("w", Forecast(5, {"a": 1}), tenant="x"))
    while cache.match(range(1000, 1300)).device_prefix_len < 300:
        cache.one_pass()
    cache.evict(1000)
    wasted = [
        cache.cache.tenants.of(tenant).receipts.sums("w", "a").wasted_tokens
        for tenant in ("x", "y")
    ]
    assert wasted == [300, 0]


def test_a_prefetch_that_a_request_had_to_wait_for_was_late(demoted: StandaloneCache) -> None:
    prefetcher = demoted.cache.prefetcher
    prefix = [ord("a") * 1000 + each for each in range(300)]
    link = SlowLink(demoted)
    demoted.cache.hear(Hint("w", Forecast(5, {"a": 1, "b": 90})))
    while not link.pending:
        demoted.one_pass()
    request = demoted.arrive([*prefix, 6], hint=hint(6, "a", a=90, b=90))
    for _ in range(3):
        assert should_wait(demoted, request)
    link.deliver()
    demoted.one_pass()
    assert not should_wait(demoted, request)
    demoted.serve(request)
    (call, *_) = receipts_of(demoted)["agents"][0]["last_calls"]
    assert (call["waited"], call["late_tokens"], call["prefetched_tokens"]) == (True, 300, 300)
    assert prefetcher.counts["prefetch_late_tokens"] == 300
