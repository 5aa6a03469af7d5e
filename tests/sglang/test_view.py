"""What the page is told of a real cache, of either number of tiers."""

from __future__ import annotations

import json
import random
from itertools import count, islice
from typing import Any

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint
from kvflow_faults.tables import sizes
from kvflow_sglang.standalone import StandaloneCache
from kvflow_sglang.view import MAX_AGENTS, MOST_NODES, MOST_OWNERS

PREFIX_TOKENS = 100


def hint(seq: int, agent: str, workflow: str = "w", **steps: int | None) -> Hint:
    return Hint(workflow, Forecast(seq, steps), app="app", agent=agent)


def prompt(agent: int, tail: int) -> list[int]:
    return [*range(1000 * (1 + agent), 1000 * (1 + agent) + PREFIX_TOKENS), 100_000 + tail]


def page_of(cache: StandaloneCache, workflow: str | None = "w", **page: int) -> dict[str, Any]:
    asked = {"offset": 0, "limit": 20, "agents_offset": 0, "agents_limit": MAX_AGENTS} | page
    found: dict[str, Any] = cache.cache.view.page(workflow, **asked)
    cache.cache.tree_core.occupancy.check()
    return dict(json.loads(json.dumps(found)))


def agents_of(page: dict[str, Any]) -> dict[str, Any]:
    return {row["agent"]: row for row in page["workflow"]["agents"]}


def test_each_agent_is_shown_with_its_steps_and_where_its_prefix_lies() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=1000)
    for seq in range(0, 4, 2):
        cache.run(prompt(0, seq), hint=hint(seq, "a", a=0, b=1))
        cache.run(prompt(1, seq + 1), hint=hint(seq + 1, "b", b=0, a=1, c=2, d=None))
    page = page_of(cache)
    rows = agents_of(page)
    assert [(name, row["steps"]) for name, row in rows.items()] == [
        *[("b", 0), ("a", 1), ("c", 2)],
        ("d", None),
    ]
    assert rows["a"]["prefix"] == {"device": PREFIX_TOKENS, "host": 0, "loading": 0, "gone": 0}
    assert rows["c"]["prefix"] is None
    assert (rows["a"]["calls"], rows["a"]["device_tokens"]) == (2, PREFIX_TOKENS)
    assert page["workflow"]["edges"] == [["a", "b", 2], ["b", "a", 1]]
    assert page["workflows"]["workflows"][0]["held"]["device"] == 2 * PREFIX_TOKENS + 4


def test_what_was_evicted_is_gone_and_counts_as_lost_at_the_next_call() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=1000)
    for seq in range(2):
        cache.run(prompt(0, seq), hint=hint(seq, "a", a=1))
    cache.evict(1000)
    assert agents_of(page_of(cache))["a"]["prefix"]["gone"] == PREFIX_TOKENS
    cache.run(prompt(0, 2), hint=hint(2, "a", a=1))
    row = agents_of(page_of(cache))["a"]
    assert (row["lost_tokens"], row["prefix"]["device"]) == (PREFIX_TOKENS, PREFIX_TOKENS)
    cache.run(prompt(7, 3), hint=hint(3, "a", a=1))
    assert agents_of(page_of(cache))["a"]["lost_tokens"] == PREFIX_TOKENS, "a new prompt lost none"


def test_with_a_host_tier_a_prefix_that_left_the_device_lies_there() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=1000, host_ratio=3.0)
    for seq in range(3):
        cache.run(prompt(0, seq), hint=hint(seq, "a", a=5))
        cache.one_pass()
    cache.evict(1000)
    page = page_of(cache)
    prefix = agents_of(page)["a"]["prefix"]
    assert prefix["device"] == 0
    assert prefix["host"] + prefix["loading"] == PREFIX_TOKENS
    host = page["pool"]["host"]
    assert host["tokens"] >= 3000
    assert host["expected"] == PREFIX_TOKENS
    assert page["pool"]["device"]["expected"] == 0


def test_the_pool_adds_up_whatever_happens() -> None:
    chance = random.Random(3)
    cache = StandaloneCache("kvflow", pool_tokens=600, host_ratio=2.0)
    for seq in range(120):
        workflow = chance.choice("vwx")
        agent = chance.randrange(4)
        steps = {f"a{each}": chance.choice([None, 0, 1, 2]) for each in range(4)}
        told = hint(seq, f"a{agent}", workflow, **steps)
        cache.run(prompt(agent, seq), [1, 2], hint=chance.choice([told, None]))
        if seq % 20 == 19:
            cache.cache.hear(Hint("x", Forecast(seq, {}, done=True)))
        pool = page_of(cache)["pool"]
        device = pool["device"]
        held = device["spent"] + device["ordinary"] + device["expected"]
        assert held + device["free"] + pool["loading"] == device["tokens"]
        by_owner = sum(each["device"] for each in pool["owners"]) + pool["shared"]["device"]
        assert by_owner == held
        host = pool["host"]
        assert host["spent"] + host["ordinary"] + host["expected"] + host["free"] == host["tokens"]


def test_an_answer_is_bounded_and_pages_reach_every_agent() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=50_000)
    everyone: dict[str, int | None] = {f"agent{each:04d}": each % 7 for each in range(1000)}
    cache.run(prompt(0, 0), hint=Hint("w", Forecast(1, everyone), agent="agent0000"))
    for each in range(400):
        cache.run([200_000 + each, *range(8)], hint=hint(1, "a", f"w{each}", a=1))
    seen: list[str] = []
    for offset in range(0, 1200, MAX_AGENTS):
        page = page_of(cache, agents_offset=offset, agents_limit=10_000)
        assert page["workflow"]["total"] == 1000
        seen += [row["agent"] for row in page["workflow"]["agents"]]
    assert sorted(seen) == sorted(everyone)
    assert len(page["pool"]["owners"]) == MOST_OWNERS
    assert page["workflows"]["total"] > 100
    assert len(page["workflows"]["workflows"]) == 20


def test_a_large_tree_is_counted_over_several_answers() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=10_000)
    for each in range(MOST_NODES + 200):
        cache.run([each, 1, 2])
    uncounted = [page_of(cache, None)["pool"]["uncounted_nodes"] for _ in range(2)]
    assert uncounted == [200, 0]
    device = page_of(cache, None)["pool"]["device"]
    assert device["ordinary"] == 3 * (MOST_NODES + 200)


def test_the_optimum_is_that_of_the_requests_that_were_served() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=512)
    assert page_of(cache, None)["optimum"] is None
    for call in range(40):  # eight agents in turn, in a pool for five: LRU finds nothing
        cache.run(prompt(call % 8, call))
    optimum = page_of(cache, None)["optimum"]
    assert optimum["requests"] == 40
    assert optimum["lru"] == 0
    assert 0.4 < optimum["optimum"] / optimum["blocks"] < 0.6
    assert cache.cache.status()["shadow_optimum"] == optimum["optimum"]


def test_nobody_knows_an_unknown_workflow() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=512)
    assert page_of(cache, "never called")["workflow"] is None
    assert page_of(cache, None)["workflows"] == {"total": 0, "workflows": []}


def test_a_workflow_that_has_ended_is_shown_as_it_was_and_expects_nobody() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=1000)
    cache.run(prompt(0, 0), hint=hint(0, "a", a=0, b=1))
    cache.cache.hear(Hint("w", Forecast(1, {}, done=True), app="app"))
    page = page_of(cache)
    assert page["workflow"]["done"] and page["workflows"]["workflows"][0]["done"]
    (row,) = page["workflow"]["agents"]
    assert (row["agent"], row["calls"], row["steps"]) == ("a", 1, None)


def test_a_workflow_that_never_ends_makes_no_answer_and_no_table_longer() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=1000)
    answers, entries, calls = [], [], count()
    # By then all is full that is kept of the last prompts; one entry a call would be 10% more.
    for most in (1200, 600):
        for call in islice(calls, most):
            steps: dict[str, int | None] = {f"a{each}": (each - call) % 5 for each in range(5)}
            told = Hint("w", Forecast(call, steps), app="app", agent=f"a{call % 5}")
            cache.run(prompt(call % 5, call), hint=told)
        answers.append(page_of(cache))
        tables = sizes(cache.cache)
        # One drops what is stale when that is most of it, the others fill up to a limit.
        for name in ("EvictionQueue._heaps", "Receipts._asked", "Shadow._last_use"):
            del tables[name]
        entries.append(sum(tables.values()))
    assert [len(each["workflow"]["agents"]) for each in answers] == [5, 5]
    assert [len(each["workflow"]["edges"]) for each in answers] == [5, 5]
    assert entries[1] < 1.05 * entries[0], entries
