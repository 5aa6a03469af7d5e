"""Tenants of one cache: same names, different KV, and nobody loses by what another says."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint
from kvflow_agents.tenants import Tenant
from kvflow_sglang.settings import VARIABLE
from kvflow_sglang.standalone import StandaloneCache

PREFIX_TOKENS = 100


def prompt(number: int, call: int) -> list[int]:
    begin = 1000 * (1 + number)
    return [*range(begin, begin + PREFIX_TOKENS), 10_000_000 + call]


class Caller:
    """Agents `a`, `b`, ... of a workflow `run`; each tenant has its own prompts."""

    def __init__(self, cache: StandaloneCache, tenant: Tenant, first: int) -> None:
        self.cache, self.tenant, self.first = cache, tenant, first
        self.seq = 0

    def hint(self, agent: str | None, **steps: int | None) -> Hint:
        self.seq += 1
        forecast = Forecast(self.seq, steps, done=not steps)
        return Hint("run", forecast, agent, "app", at_ms=self.seq, tenant=self.tenant)

    def call(self, agent: str, **steps: int | None) -> int:
        tokens = prompt(self.first + ord(agent), self.seq)
        return self.cache.run(tokens, hint=self.hint(agent, **steps), tenant=self.tenant)


@pytest.fixture
def cache() -> StandaloneCache:
    return StandaloneCache("kvflow", pool_tokens=1000)


def test_equal_names_of_two_tenants_never_meet(cache: StandaloneCache) -> None:
    one, other = Caller(cache, "one", 0), Caller(cache, "other", 300)
    for _ in range(2):
        one.call("a", a=1)
        other.call("a", a=1)
    tenants = cache.cache.tenants
    for tenant in ("one", "other"):
        assert tenants.find(tenant).receipts.sums("run", "a").calls == 2
    assert cache.cache.tenants.anonymous.receipts.workflows()["total"] == 0
    # One ends its run: the other's is still expected.
    before = dict(cache.cache.tree_core.expected.by_tenant)
    assert before["one"] == before["other"] == (PREFIX_TOKENS, 0)
    cache.cache.hear(one.hint(None))
    assert cache.cache.tree_core.expected.by_tenant == {"other": (PREFIX_TOKENS, 0)}
    for known in tenants:
        known.foresight.check()


def test_a_run_that_has_ended_for_one_goes_on_for_the_other(cache: StandaloneCache) -> None:
    one, other = Caller(cache, "one", 0), Caller(cache, "other", 300)
    other.seq = 0
    one.seq = 1000
    cache.cache.hear(one.hint(None))
    assert cache.cache.hear(other.hint(None, a=1)) == "accepted"
    assert cache.cache.hear(Hint("run", Forecast(5, {"a": 1}))) == "accepted"


def test_the_view_names_nothing_of_another_tenant(cache: StandaloneCache) -> None:
    one, other = Caller(cache, "one", 0), Caller(cache, "other", 300)
    one.call("a", a=1)
    other.call("b", b=1)

    def view(**asked: Any) -> dict[str, Any]:
        page = {"offset": 0, "limit": 20, "agents_offset": 0, "agents_limit": 20}
        found: dict[str, Any] = cache.cache.view.page("run", **page, **asked)
        return found

    mine = view(tenant="one")
    assert [row["agent"] for row in mine["workflow"]["agents"]] == ["a"]
    assert [row["tenant"] for row in mine["workflows"]["workflows"]] == ["one"]
    assert [row["tenant"] for row in mine["pool"]["owners"]] == ["one"]
    stranger = view(tenant="stranger")
    assert stranger["workflow"] is None
    assert stranger["workflows"] == {"total": 0, "workflows": []}
    assert stranger["pool"]["owners"] == []
    everybody = view(tenant="other", of_all=True)
    assert [row["agent"] for row in everybody["workflow"]["agents"]] == ["b"]
    assert {row["tenant"] for row in everybody["workflows"]["workflows"]} == {"one", "other"}
    assert everybody["workflows"]["total"] == 2


def test_pages_of_all_tenants_hold_each_workflow_once(cache: StandaloneCache) -> None:
    for tenant in ("one", "other", None):
        for run in range(3):
            cache.cache.hear(Hint(f"{tenant}{run}", Forecast(1), tenant=tenant))
    found = [cache.cache.view._workflows(None, True, at, 2)["workflows"] for at in range(0, 10, 2)]
    names = [row["workflow"] for rows in found for row in rows]
    assert len(names) == len(set(names)) == 9


def hits(mine: Iterator[int], hostile: bool, hinted: bool, tenant: Tenant) -> tuple[int, int]:
    """My cached tokens while another floods the pool with what it says is needed now."""
    cache = StandaloneCache("kvflow", pool_tokens=1500)
    chance, found, of_hostile = random.Random(7), 0, 0
    for call, agent in enumerate(mine):
        found += cache.run(prompt(agent, call), tenant=tenant)
        for each in range(3):
            number = 100 + chance.randrange(40)
            now = {f"h{other}": 0 for other in range(100, 140)}
            hint = Hint(f"w{call % 9}", Forecast(3 * call + each, now), f"h{number}", "app", call)
            hint = Hint(**{**_fields(hint), "tenant": "hostile"})
            tokens = prompt(number, call + each)
            of_hostile += cache.run(tokens, hint=hint if hinted else None, tenant="hostile")
    return found, of_hostile


def _fields(hint: Hint) -> dict[str, Any]:
    return {name: getattr(hint, name) for name in ("workflow", "forecast", "agent", "app", "at_ms")}


def test_a_flood_that_is_all_needed_now_costs_another_tenant_nothing() -> None:
    def mine() -> Iterator[int]:
        chance = random.Random(3)
        return (min(int(chance.expovariate(0.5)), 9) for _ in range(200))

    told, untold = hits(mine(), True, True, "mine"), hits(mine(), True, False, "mine")
    assert untold[0] > 5000
    assert told[0] >= 0.9 * untold[0]


def left_after_flood(calls: int, *, flood_hinted: bool, mine_hinted: bool) -> list[int]:
    """What is still cached of my four agents' prompts, after so many of another tenant's."""
    cache = StandaloneCache("kvflow", pool_tokens=1000)
    agents = "abcd"
    for now, agent in enumerate(agents):
        steps = {each: (at - now) % 4 for at, each in enumerate(agents)}
        hint = Hint("run", Forecast(now, steps), agent, "app", at_ms=now, tenant="mine")
        tokens = prompt(ord(agent), 0)
        cache.run(tokens, hint=hint if mine_hinted else None, tenant="mine")
    for call in range(calls):
        now_all = {f"h{each}": 0 for each in range(20)}
        hint = Hint("flood", Forecast(call, now_all), f"h{call}", "app", 10 + call, "hostile")
        tokens = prompt(500 + call, call)
        cache.run(tokens, hint=hint if flood_hinted else None, tenant="hostile")
    return [cache.match(prompt(ord(agent), 0)).device_prefix_len for agent in agents]


@pytest.mark.parametrize(
    ("calls", "by_recency", "by_my_hints"),
    [
        # Nine prompts of 101 tokens fit into the pool.
        (5, [101, 101, 101, 101], [101, 101, 101, 101]),
        # The last call said: a next, then b, then c. No more of them goes than has to.
        (6, [0, 101, 101, 101], [101, 101, 85, 101]),
        (7, [0, 0, 101, 101], [101, 85, 0, 101]),
        (9, [0, 0, 0, 0], [0, 0, 0, 85]),
    ],
)
def test_a_flood_takes_no_more_than_recency_would(
    calls: int, by_recency: list[int], by_my_hints: list[int]
) -> None:
    for flood_hinted in (False, True):
        assert left_after_flood(calls, flood_hinted=flood_hinted, mine_hinted=False) == by_recency
        assert left_after_flood(calls, flood_hinted=flood_hinted, mine_hinted=True) == by_my_hints


def test_wrong_forecasts_of_one_tenant_switch_off_its_own_alone(cache: StandaloneCache) -> None:
    right, wrong = Caller(cache, "right", 0), Caller(cache, "wrong", 300)
    for _ in range(4):
        right.call("a", b=1, a=2)
        right.call("b", a=1, b=2)
        wrong.call("a", a=None, b=1)
    tenants = cache.cache.tenants
    assert tenants.find("wrong").foresight.distrusted == 1
    assert tenants.find("right").foresight.distrusted == 0
    wrong_guard = tenants.find("wrong").guard
    wrong_guard.heeds = False
    tenants.find("wrong").foresight.heed(False)
    assert tenants.find("right").foresight.is_trusted("right\x00run")
    status = cache.cache.status()
    assert (status["tenants"], status["disregarded_tenants"], status["heeds_forecasts"]) == (
        2,
        1,
        1,
    )
    for known in tenants:
        known.foresight.check()


def test_the_guard_looks_at_each_tenants_own_requests() -> None:
    """One whose hints keep what never comes again finds less than LRU would; the other does not."""
    cache = StandaloneCache("kvflow", pool_tokens=1200)
    right = Caller(cache, "right", 0)
    seq = 0
    for turn in range(120):
        right.call("a", b=1, a=2)
        right.call("b", a=1, b=2)
        seq += 1
        junk = Hint(f"j{turn}", Forecast(1, {"x": 0}), "x", at_ms=right.seq, tenant="wrong")
        cache.run(prompt(5000 + turn, turn), hint=junk, tenant="wrong")
        cache.run(prompt(400 + turn % 3, turn), tenant="wrong")
    guards = {name: known.guard for name, known in cache.cache.tenants.items()}
    assert guards["right"].heeds and guards["right"].trips == 0


class Junk:
    """A tenant whose hints keep what never comes again, beside three prompts that always do."""

    def __init__(self, cache: StandaloneCache) -> None:
        self.cache, self.turn = cache, 0

    def take_turn(self, *, hinted: bool = True) -> None:
        self.turn += 1
        forecast = Forecast(1, {"x": 1}, due_ms={"x": 1})
        junk = Hint(f"j{self.turn}", forecast, "x", at_ms=self.turn, tenant="wrong")
        for number, hint in ((9000 + self.turn, junk if hinted else None), (self.turn % 3, None)):
            self.cache.run(long_prompt(number, self.turn), hint=hint, tenant="wrong")


def long_prompt(number: int, call: int) -> list[int]:
    begin = 1000 * (1 + number)
    return [*range(begin, begin + 256), 10_000_000 + call]


def test_the_guard_of_a_tenant_trips_through_the_cache_and_lets_it_try_again() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=2200)
    right, junk = Caller(cache, "right", 0), Junk(cache)
    right.call("a", a=1)
    wrong = cache.cache.tenants.of("wrong")
    turns = 0
    while wrong.guard.heeds:
        junk.take_turn()
        turns += 1
        assert turns < 1000, "it never trips"
    assert not wrong.foresight.is_trusted("wrong\x00j1")
    assert cache.cache.tree_core.expected.by_tenant.get("wrong", (0, 0)) == (0, 0)
    assert cache.cache.status()["disregarded_tenants"] == 1
    assert cache.cache.status()["heeds_forecasts"] == 1
    assert cache.cache.tenants.of("right").guard.heeds
    while not wrong.guard.heeds:
        junk.take_turn(hinted=False)
        turns += 1
        assert turns < 5000, "it never recovers"
    assert (wrong.guard.trips, cache.cache.status()["disregarded_tenants"]) == (1, 0)
    hint = Hint("again", Forecast(1, {"x": 1}), "x", at_ms=junk.turn, tenant="wrong")
    cache.run(long_prompt(1, 0), hint=hint, tenant="wrong")
    assert cache.cache.tree_core.expected.by_tenant["wrong"] != (0, 0)
    wrong.foresight.check()


def test_tables_of_one_tenant_are_bounded_and_do_not_touch_anothers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, '{"tenant_workflows": 4, "tenant_agents": 3, "most_tenants": 2}')
    cache = StandaloneCache("kvflow", pool_tokens=2000)
    mine = Caller(cache, "mine", 0)
    mine.call("a", a=1)
    for flood in range(50):
        hint = Hint(f"w{flood}", Forecast(1, {"a": 0}), "a", at_ms=flood, tenant="hostile")
        cache.run(prompt(500 + flood % 9, flood), hint=hint, tenant="hostile")
    tenants = cache.cache.tenants
    assert 0 < tenants.find("hostile").foresight.workflows <= 4
    assert tenants.find("hostile").foresight.agents <= 3
    assert tenants.find("hostile").receipts.workflows()["total"] <= 4
    assert tenants.find("mine").foresight.workflows == 1
    # More tenants than are known at a time: the silent ones are forgotten, with their claims.
    for each in range(5):
        cache.cache.hear(Hint("run", Forecast(1, {"a": 0}), tenant=f"t{each}"))
    assert cache.cache.status()["tenants"] == 2
    assert tenants.find("mine") is None
    assert set(cache.cache.tree_core.expected.by_tenant) <= {None}
    cache.cache.tree_core.ledger.check()


def test_tables_of_those_whom_nothing_tells_apart_have_bounds_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, '{"common_workflows": 5, "common_agents": 3}')
    cache = StandaloneCache("kvflow", pool_tokens=2000)
    for flood in range(20):
        hint = Hint(f"w{flood}", Forecast(1, {"a": 0}), "a", at_ms=flood)
        cache.run(prompt(500 + flood % 9, flood), hint=hint)
    assert 0 < cache.cache.tenants.anonymous.foresight.workflows <= 5
    assert cache.cache.tenants.anonymous.foresight.agents <= 3
    assert cache.cache.tenants.anonymous.receipts.workflows()["total"] <= 5


def test_what_is_remembered_of_a_tenants_prompts_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, '{"tenant_prompt_tokens": 500, "common_prompt_tokens": 300}')
    cache = StandaloneCache("kvflow", pool_tokens=4000)
    for each in range(12):
        for tenant in ("one", None):
            hint = Hint(f"w{each}", Forecast(1, {"a": 0}), "a", at_ms=each, tenant=tenant)
            cache.run(prompt(500 + each, each), hint=hint, tenant=tenant)
    # Prompts of 101 tokens.
    assert cache.cache.tenants.find("one").foresight.agents == 4
    assert cache.cache.tenants.anonymous.foresight.agents == 2
    cache.cache.tenants.anonymous.foresight.check()


def test_who_is_told_apart_by_nothing_is_never_forgotten(cache: StandaloneCache) -> None:
    cache.cache.hear(Hint("run", Forecast(1, {"a": 0})))
    for each in range(200):
        cache.cache.hear(Hint("run", Forecast(1, {"a": 0}), tenant=f"t{each}"))
    assert cache.cache.tenants.anonymous.foresight.workflows == 1
    assert cache.cache.status()["tenants"] == 64


def test_room_for_a_prefetch_is_made_of_its_own_tenants_kv() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=1000, host_ratio=4.0)
    for number in range(8):
        cache.run(prompt(number, 0), tenant="other")
    free = cache.allocator.available_size()
    assert cache.cache.make_room(600, 0, "mine") == free < 600
    assert cache.match(prompt(0, 0)).device_prefix_len > 0
    assert cache.cache.make_room(600, 0, "other") == 600


def test_flushing_forgets_what_was_known_of_every_tenant(cache: StandaloneCache) -> None:
    one = Caller(cache, "one", 0)
    one.call("a", a=1)
    cache.cache.reset()
    status = cache.cache.status()
    assert (status["workflows"], status["agents"], status["expected_device_tokens"]) == (0, 0, 0)
    assert cache.cache.tenants.find("one").receipts.about("run") is not None
    cache.cache.sanity_check()
