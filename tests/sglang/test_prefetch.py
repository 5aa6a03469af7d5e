"""Prefetch in a real cache with two tiers: what is loaded, when, and what never goes wrong."""

from __future__ import annotations

import gc
import json
import os
import random
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from kvflow_agents import link_rate
from kvflow_agents.arrivals import MOST_PUT_OFF
from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint
from kvflow_agents.prefetch import MOST_WAITS, SPARE_TOKENS
from kvflow_agents.track_record import TrackRecord
from kvflow_sglang.loads import EarlyLoads
from kvflow_sglang.settings import VARIABLE
from kvflow_sglang.standalone import StandaloneCache
from tests.sglang.slow_link import SlowLink

PROMPT_TOKENS = 300


def prompt(agent: int, turn: int = 0) -> list[int]:
    return [agent * 1000 + i for i in range(PROMPT_TOKENS)] + [900_000 + turn]


class Workflow:
    """A workflow of a few agents, `a0`, `a1`, ..., that says how many steps each is away."""

    def __init__(self, name: str = "w") -> None:
        self.name = name
        self.seq = 0

    def hint(self, steps: Mapping[int, int | None], caller: int | None = None, **more: Any) -> Hint:
        self.seq += 1
        named = {f"a{agent}": count for agent, count in steps.items()}
        agent = None if caller is None else f"a{caller}"
        return Hint(self.name, Forecast(self.seq, named, **more), agent=agent)


@pytest.fixture
def cache() -> Iterator[StandaloneCache]:
    """Room for three prompts on the device and ten on the host."""
    made = StandaloneCache("kvflow", pool_tokens=1000, host_ratio=4.0)
    yield made
    check(made)


def check(cache: StandaloneCache) -> None:
    """Whatever happened, no slot is lost, no lock is left and the books are right."""
    tree = cache.cache
    cache.one_pass()  # backups hold locks until they are done
    tree.tenants.anonymous.foresight.check()
    if tree.prefetcher is not None and not tree.prefetcher.tokens_under_way:
        assert tree.protected_size() == 0
    free = cache.allocator.available_size()
    assert free + tree.evictable_size() + tree.protected_size() == cache.allocator.size


def told(cache: StandaloneCache, agents: int, workflow: Workflow) -> None:
    """Every agent calls twice, the second time with all known; then the first are on the host."""
    for turn in range(2):
        for agent in range(agents):
            steps = {other: (other - agent) % agents for other in range(agents)}
            cache.run(prompt(agent, turn), [1], hint=workflow.hint(steps, caller=agent))


def demoted(cache: StandaloneCache, workflow: Workflow) -> None:
    """Five agents that have called, of which `a0` and `a1` are on the host only."""
    told(cache, 5, workflow)
    cache.cache.hear(workflow.hint({0: 90, 1: 90, 2: 8, 3: 8, 4: 8}))
    for agent in range(2, 5):
        cache.run(prompt(agent, 3), [1])
    quiet(cache)


def quiet(cache: StandaloneCache) -> None:
    """The passes after a request in which nothing is loaded ahead."""
    cache.one_pass()
    cache.one_pass()


def on_device(cache: StandaloneCache, agent: int) -> int:
    found: int = cache.match(prompt(agent)[:-1]).device_prefix_len
    return found


def counts(cache: StandaloneCache) -> dict[str, int]:
    status: dict[str, int] = cache.cache.status()
    return status


def settle(cache: StandaloneCache, link: SlowLink) -> None:
    for _ in range(10):
        link.deliver()
        cache.one_pass()


def test_the_next_agent_is_on_the_device_before_its_call(cache: StandaloneCache) -> None:
    workflow = Workflow()
    told(cache, 5, workflow)
    link = SlowLink(cache)
    steps = {agent: agent for agent in range(5)}
    cache.run(prompt(0, 2), [1], hint=workflow.hint(steps, caller=0))
    settle(cache, link)
    assert on_device(cache, 1) == PROMPT_TOKENS
    before = counts(cache)
    assert cache.run(prompt(1, 2), [1], hint=workflow.hint(steps, caller=1)) == PROMPT_TOKENS
    after = counts(cache)
    assert after["prefetch_used_tokens"] >= before["prefetch_used_tokens"]


def test_kv_is_not_seen_before_its_copy_is_done(cache: StandaloneCache) -> None:
    workflow = Workflow()
    demoted(cache, workflow)
    link = SlowLink(cache)
    assert on_device(cache, 0) < PROMPT_TOKENS
    cache.cache.hear(workflow.hint({0: 0, 1: 9, 2: 9, 3: 9, 4: 9}))
    for _ in range(3):
        cache.one_pass()
        assert link.pending and on_device(cache, 0) < PROMPT_TOKENS
        check(cache)
    assert counts(cache)["load_tokens_under_way"] > 0
    link.deliver()
    cache.one_pass()
    assert on_device(cache, 0) == PROMPT_TOKENS
    assert cache.run(prompt(0, 4), [1]) == PROMPT_TOKENS  # and the KV is right


def test_an_adapter_that_needs_the_link_goes_first(cache: StandaloneCache) -> None:
    workflow = Workflow()
    demoted(cache, workflow)
    link = SlowLink(cache)
    cache.cache.lora = SimpleNamespace(needs_link=True)
    cache.cache.hear(workflow.hint({0: 0, 1: 9, 2: 9, 3: 9, 4: 9}))
    for _ in range(3):
        cache.one_pass()
        assert not link.pending
    cache.cache.lora.needs_link = False
    cache.one_pass()
    assert link.pending
    cache.cache.lora = None


def test_without_the_fence_wrong_kv_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EarlyLoads, "_is_fenced", False)
    cache = StandaloneCache("kvflow", pool_tokens=1000, host_ratio=4.0)
    workflow = Workflow()
    demoted(cache, workflow)
    SlowLink(cache)
    cache.cache.hear(workflow.hint({0: 0, 1: 9, 2: 9, 3: 9, 4: 9}))
    cache.one_pass()
    with pytest.raises(AssertionError, match="not its KV"):
        cache.run(prompt(0, 4), [1])


# ---- what happens to a prefix while its copy is under way ----


@pytest.fixture
def loading(cache: StandaloneCache) -> tuple[StandaloneCache, SlowLink, Workflow]:
    """A cache in which the prompt of `a0` is on its way to the device."""
    workflow = Workflow()
    demoted(cache, workflow)
    link = SlowLink(cache)
    cache.cache.hear(workflow.hint({0: 0, 1: 9, 2: 8, 3: 8, 4: 8}))
    cache.one_pass()
    assert link.pending and counts(cache)["load_tokens_under_way"] >= PROMPT_TOKENS
    return cache, link, workflow


Loading = tuple[StandaloneCache, SlowLink, Workflow]


def test_a_request_may_compute_what_is_on_its_way(loading: Loading) -> None:
    """Hazard: it inserts its own slots where the copy was to go; those of the copy are freed."""
    cache, link, _ = loading
    request_slots = cache.run(prompt(0, 7), [1], loads=False)
    assert request_slots < PROMPT_TOKENS
    settle(cache, link)
    assert cache.run(prompt(0, 8), [1]) == PROMPT_TOKENS


def test_a_request_may_load_what_is_on_its_way(loading: Loading) -> None:
    cache, link, _ = loading
    assert cache.run(prompt(0, 7), [1]) == PROMPT_TOKENS
    settle(cache, link)
    assert cache.run(prompt(0, 8), [1]) == PROMPT_TOKENS


def test_a_node_may_be_cut_while_it_is_on_its_way(loading: Loading) -> None:
    cache, link, _ = loading
    cache.run([*prompt(0)[:120], 5, 6, 7], [1], loads=False)
    cache.run([*prompt(0)[:60], 8, 9], [1], loads=False)
    settle(cache, link)
    assert cache.run(prompt(0, 8), [1]) == PROMPT_TOKENS
    cache.cache.tree_core.sanity_check([], [])


def test_a_flush_waits_for_the_copy(loading: Loading) -> None:
    cache, link, _ = loading
    cache.cache.reset()
    assert all(event.query() for event in link.pending), "nobody may reuse slots under a copy"
    cache.allocator.clear()
    cache.one_pass()
    assert counts(cache)["load_tokens_under_way"] == 0
    assert cache.run(prompt(0), [1]) == 0


def test_a_copy_lands_although_its_workflow_has_ended(loading: Loading) -> None:
    cache, link, workflow = loading
    cache.cache.hear(workflow.hint({}, done=True))
    started = counts(cache)["prefetched_tokens"]
    settle(cache, link)
    assert counts(cache)["prefetched_tokens"] == started, "nothing more is loaded for it"
    assert not link.pending


def test_slots_under_a_copy_are_neither_lost_nor_given_away(loading: Loading) -> None:
    cache, link, _ = loading
    check(cache)  # what an idle server asserts
    for agent in range(10, 16):
        cache.run(prompt(agent), [1])
    settle(cache, link)
    assert cache.run(prompt(0, 9), [1]) == PROMPT_TOKENS


def test_early_loads_leave_the_ring_of_demand_loads_alone(loading: Loading) -> None:
    cache, _, _ = loading
    controller = cache.cache.cache_controller
    assert cache.cache.has_free_load_back_slot() and not controller.ack_load_queue
    engine = cache.cache.prefetcher._loads._engine._engine
    assert engine is not controller.l2_transfer_engine


# ---- what is loaded, and what is not ----


def test_one_copy_at_a_time_the_nearest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, VARIABLE, json.dumps({"prefetch_tokens": PROMPT_TOKENS}))
    cache = StandaloneCache("kvflow", pool_tokens=1000, host_ratio=4.0)
    workflow = Workflow()
    demoted(cache, workflow)
    link = SlowLink(cache)
    cache.cache.hear(workflow.hint({0: 1, 1: 0, 2: 8, 3: 8, 4: 8}))
    cache.one_pass()
    cache.one_pass()
    assert len(link.pending) == 1
    link.deliver()
    cache.one_pass()
    assert (on_device(cache, 1), len(link.pending)) == (PROMPT_TOKENS, 1)
    settle(cache, link)
    assert (on_device(cache, 0), on_device(cache, 1)) == (PROMPT_TOKENS, PROMPT_TOKENS)


def test_what_is_wanted_together_goes_in_one_copy(cache: StandaloneCache) -> None:
    workflow = Workflow()
    demoted(cache, workflow)
    link = SlowLink(cache)
    cache.cache.hear(workflow.hint({0: 1, 1: 0, 2: 8, 3: 8, 4: 8}))
    cache.one_pass()
    assert len(link.pending) == 1
    settle(cache, link)
    assert [on_device(cache, agent) for agent in (0, 1)] == [PROMPT_TOKENS] * 2


def test_a_load_takes_no_other_along_that_would_make_it_late(
    cache: StandaloneCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link is seen to carry a prompt in a second, and the next is needed in half of one."""
    monkeypatch.setattr(link_rate, "FEWEST_COPIES", 1)
    workflow = Workflow()
    demoted(cache, workflow)
    link = SlowLink(cache)
    # What the device holds has rested since then.
    cache.cache.hear(workflow.hint({0: 90, 1: 90, 2: 8, 3: 8, 4: 8})._replace(at_ms=1))
    for at_ms in (10_000, 11_000):
        cache.cache.hear(workflow.hint({0: 0, 1: 9, 2: 8, 3: 8, 4: 8})._replace(at_ms=at_ms))
        cache.one_pass()
    link.deliver()
    cache.one_pass()
    assert on_device(cache, 0) == PROMPT_TOKENS
    cache.cache.hear(workflow.hint({0: 90, 1: 90, 2: 8, 3: 8, 4: 8})._replace(at_ms=20_000))
    for agent in range(2, 5):
        cache.run(prompt(agent, 4), [1])
    quiet(cache)
    assert on_device(cache, 0) + on_device(cache, 1) < PROMPT_TOKENS
    cache.cache.hear(workflow.hint({0: 0, 1: 1, 2: 8, 3: 8, 4: 8})._replace(at_ms=30_000))
    cache.one_pass()
    assert 0 < counts(cache)["load_tokens_under_way"] <= PROMPT_TOKENS
    settle(cache, link)
    assert [on_device(cache, agent) for agent in (0, 1)] == [PROMPT_TOKENS] * 2


def test_kv_that_will_be_used_sooner_gives_no_way(cache: StandaloneCache) -> None:
    """Prompts of which nobody tells anything are read each second."""
    workflow = Workflow()
    demoted(cache, workflow)
    link = SlowLink(cache)
    nobody: dict[int, int | None] = dict.fromkeys(range(5))
    for second in range(8):
        cache.cache.hear(workflow.hint(nobody)._replace(at_ms=1000 * second + 1))
        for agent in range(2, 5):
            cache.run(prompt(agent, second), [1])
    quiet(cache)

    def loads_under_way(due_ms: int) -> int:
        hint = workflow.hint({0: 1, **dict.fromkeys(range(1, 5))}, due_ms={"a0": due_ms})
        cache.cache.hear(hint._replace(at_ms=8000 + workflow.seq))
        cache.one_pass()
        return counts(cache)["load_tokens_under_way"]

    spare_tokens = cache.allocator.available_size()
    assert loads_under_way(60_000) <= spare_tokens
    settle(cache, link)
    assert loads_under_way(100) > spare_tokens
    settle(cache, link)
    assert on_device(cache, 0) == PROMPT_TOKENS


def test_nothing_is_started_while_requests_arrive_but_not_for_ever(cache: StandaloneCache) -> None:
    workflow = Workflow()
    demoted(cache, workflow)
    link = SlowLink(cache)
    cache.cache.hear(workflow.hint({0: 0, 1: 9, 2: 8, 3: 8, 4: 8}))
    started = []
    for _ in range(MOST_PUT_OFF + 1):
        cache.cache.prefetcher.arrivals.note()
        cache.one_pass()
        started.append(bool(link.pending))
    assert started == [False] * MOST_PUT_OFF + [True]


def test_nothing_is_started_beside_a_load_that_a_request_waits_for(cache: StandaloneCache) -> None:
    workflow = Workflow()
    demoted(cache, workflow)
    link = SlowLink(cache)
    tree = cache.cache
    assert tree.load_back(cache.match(prompt(1)[:-1]).best_match_node)
    tree.hear(workflow.hint({0: 0, 1: 9, 2: 8, 3: 8, 4: 8}))
    for _ in range(3):
        cache.one_pass()
        assert tree.ongoing_load_back and not link.pending
    tree.ready_to_load_host_cache()  # the batch runs, and its load with it
    cache.one_pass()
    assert not tree.ongoing_load_back and link.pending
    settle(cache, link)


def test_a_prefix_larger_than_the_pool_is_loaded_as_far_as_it_fits(cache: StandaloneCache) -> None:
    workflow = Workflow()
    long = list(range(7000, 7900))
    for turn in range(2):
        cache.run([*long, 900_000 + turn], [1], hint=workflow.hint({0: 0}, caller=0))
    cache.cache.hear(workflow.hint({0: 90}))
    cache.evict(1000)
    taken = cache.allocator.alloc(600)  # as if the pool had never been larger than the rest
    link = SlowLink(cache)
    cache.cache.hear(workflow.hint({0: 0}))
    settle(cache, link)
    found = cache.match(long)
    assert (found.device_prefix_len, found.host_hit_length) == (384, 516)
    assert cache.cache.prefetcher.tokens_under_way == 0
    cache.allocator.free(taken)


@pytest.mark.parametrize(
    ("answered_tokens", "spare_tokens"), [([], 0), ([0, 0], 2 * SPARE_TOKENS), ([190, 200], 10)]
)
def test_a_load_leaves_room_for_what_running_requests_are_about_to_write(
    cache: StandaloneCache, answered_tokens: list[int], spare_tokens: int
) -> None:
    workflow = Workflow()
    demoted(cache, workflow)
    cache.evict(1000)
    free_tokens = len(prompt(0)) + SPARE_TOKENS
    taken = cache.allocator.alloc(cache.allocator.available_size() - free_tokens)
    cache.cache.begin_pass(
        [
            SimpleNamespace(
                sampling_params=SimpleNamespace(max_new_tokens=200), output_ids=[1] * answered
            )
            for answered in answered_tokens
        ]
    )
    room = cache.cache.make_room(free_tokens, 0)
    assert room == free_tokens - spare_tokens
    cache.allocator.free(taken)


def test_a_copy_lands_when_it_is_done_on_every_rank(
    cache: StandaloneCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other rank, played here by what its reductions would add, is slower."""
    workflow = Workflow()
    demoted(cache, workflow)
    others: list[int] = []

    def reduce(counts: Any, operation: Any) -> None:
        if counts.dim() == 0:  # not one of SGLang's own
            counts.clamp_(max=others.pop(0))

    monkeypatch.setattr(cache.cache, "_all_reduce", reduce)
    cache.cache.hear(workflow.hint({0: 0, 1: 9, 2: 8, 3: 8, 4: 8}))
    cache.one_pass()  # starts the copy, which on a CPU is done at once
    others += [0, 0, 1]
    for found in (0, 0, PROMPT_TOKENS):
        cache.one_pass()
        assert on_device(cache, 0) == found
    assert not others


def test_nothing_that_is_needed_as_soon_is_evicted(cache: StandaloneCache) -> None:
    workflow = Workflow()
    demoted(cache, workflow)
    link = SlowLink(cache)
    cache.cache.hear(workflow.hint({0: 1, 1: 1, 2: 0, 3: 1, 4: 1}))
    settle(cache, link)
    assert [on_device(cache, agent) for agent in (2, 3, 4)] == [PROMPT_TOKENS] * 3


def test_an_agent_two_steps_away_is_not_loaded(cache: StandaloneCache) -> None:
    workflow = Workflow()
    demoted(cache, workflow)
    before = counts(cache)["prefetched_tokens"]
    cache.cache.hear(workflow.hint({0: 2, 1: None, 2: 8, 3: 8, 4: 8}))
    settle(cache, SlowLink(cache))
    assert counts(cache)["prefetched_tokens"] == before


def test_agents_never_seen_and_prefixes_on_the_device_cost_nothing(cache: StandaloneCache) -> None:
    workflow = Workflow()
    demoted(cache, workflow)
    link = SlowLink(cache)
    before = counts(cache)["prefetched_tokens"]
    cache.cache.hear(workflow.hint({77: 0, 3: 0, 4: 1}))
    settle(cache, link)
    assert counts(cache)["prefetched_tokens"] == before


def test_what_does_not_fit_is_loaded_as_far_as_there_is_room(cache: StandaloneCache) -> None:
    """A prefix larger than what may be displaced; the rest is left to its request."""
    workflow = Workflow()
    demoted(cache, workflow)
    link = SlowLink(cache)
    cache.cache.hear(workflow.hint({0: 1, 1: 1, 2: 0, 3: 0, 4: 9}))
    settle(cache, link)
    found = [on_device(cache, agent) for agent in range(4)]
    assert found[2:] == [PROMPT_TOKENS] * 2
    assert PROMPT_TOKENS <= found[0] + found[1] < 2 * PROMPT_TOKENS


def test_a_large_prefix_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, VARIABLE, '{"prefetch_tokens": 128}')
    cache = StandaloneCache("kvflow", pool_tokens=1000, host_ratio=4.0)
    workflow = Workflow()
    demoted(cache, workflow)
    link = SlowLink(cache)
    cache.cache.hear(workflow.hint({0: 0, 1: 9, 2: 8, 3: 8, 4: 8}))
    pieces = []
    for _ in range(5):
        cache.one_pass()
        pieces.append(counts(cache)["load_tokens_under_way"])
        link.deliver()
    assert pieces == [128, 128, PROMPT_TOKENS - 256, 0, 0]
    assert cache.run(prompt(0, 9), [1]) == PROMPT_TOKENS


def test_nothing_is_loaded_for_forecasts_that_were_wrong(cache: StandaloneCache) -> None:
    workflow = Workflow()
    demoted(cache, workflow)
    wrong = {0: 5, 1: 5, 2: 1, 3: 5, 4: 5}
    for agent in (3, 4, 3, 4, 3):
        cache.run(prompt(agent, 5), [1], hint=workflow.hint(wrong, caller=agent))
    status = counts(cache)
    assert (status["distrusted_workflows"], status["expected_device_tokens"]) == (1, 0)
    cache.cache.hear(workflow.hint({0: 0, 1: 0}))
    settle(cache, SlowLink(cache))
    assert counts(cache)["prefetched_tokens"] == status["prefetched_tokens"]


def unread_tokens(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, int], *, with_another: bool
) -> int:
    """How much is loaded ahead of two agents of 300 tokens that nobody calls."""
    monkeypatch.setenv(VARIABLE, json.dumps(settings))
    cache = StandaloneCache("kvflow", pool_tokens=1000, host_ratio=4.0)
    if with_another:
        cache.cache.hear(Hint("run", Forecast(1, {"a": 0}), tenant="another"))
    workflow = Workflow()
    demoted(cache, workflow)
    cache.cache.hear(workflow.hint({0: 0, 1: 1, 2: 8, 3: 8, 4: 8}))
    for _ in range(20):
        cache.one_pass()
    check(cache)
    return sum(on_device(cache, agent) for agent in (0, 1))


def test_what_is_loaded_ahead_of_a_tenant_and_not_read_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = {"tenant_prefetch_tokens": 370}  # in whole pieces of the second prefix
    assert unread_tokens(monkeypatch, budget, with_another=True) == 364
    assert unread_tokens(monkeypatch, budget, with_another=False) == 600
    common = {"common_prefetch_tokens": 310}
    assert unread_tokens(monkeypatch, common, with_another=False) == 300
    assert unread_tokens(monkeypatch, budget | common, with_another=True) == 300


def test_prefetch_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, VARIABLE, '{"prefetch_steps": null}')
    cache = StandaloneCache("kvflow", pool_tokens=1000, host_ratio=4.0)
    workflow = Workflow()
    demoted(cache, workflow)
    cache.cache.hear(workflow.hint({0: 0, 1: 0}))
    settle(cache, SlowLink(cache))
    assert counts(cache)["prefetched_tokens"] == 0


def test_a_prefetch_that_nobody_used_is_counted_as_wasted(loading: Loading) -> None:
    cache, link, workflow = loading
    settle(cache, link)
    cache.cache.hear(workflow.hint({}, done=True))
    before = counts(cache)
    for agent in range(20, 24):
        cache.run(prompt(agent), [1])
    after = counts(cache)
    wasted = after["prefetch_wasted_tokens"] - before["prefetch_wasted_tokens"]
    assert wasted >= PROMPT_TOKENS


# ---- which requests wait ----


def arrived(cache: StandaloneCache, agent: int) -> Any:
    """A waiting request, matched as the scheduler matches it before admission."""
    found = cache.match(prompt(agent)[:-1])
    return Waiting(found.best_match_node, found.host_hit_length)


class Waiting:
    def __init__(self, best_match_node: int, host_hit_length: int) -> None:
        self.best_match_node = best_match_node
        self.host_hit_length = host_hit_length


def test_a_request_waits_while_its_prefix_is_loading(loading: Loading) -> None:
    cache, link, _ = loading
    prefetcher = cache.cache.prefetcher
    for others_can_run in (True, False):
        assert prefetcher.should_wait(arrived(cache, 0), others_can_run=others_can_run)
    settle(cache, link)
    assert not prefetcher.should_wait(arrived(cache, 0), others_can_run=True)


def test_a_client_that_hangs_up_while_its_prefix_is_loading_leaves_nothing(
    loading: Loading,
) -> None:
    """The request is dropped from the waiting queue; its load lands and is there for others."""
    cache, link, _ = loading
    prefetcher = cache.cache.prefetcher
    request = arrived(cache, 0)
    assert prefetcher.should_wait(request, others_can_run=False)
    del request
    gc.collect()
    assert not prefetcher._waits
    settle(cache, link)
    assert prefetcher.tokens_under_way == 0
    assert cache.run(prompt(0, 8), [1]) == PROMPT_TOKENS


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> StandaloneCache:
    monkeypatch.setitem(os.environ, VARIABLE, '{"waits_for_loads": true}')
    return StandaloneCache("kvflow", pool_tokens=1000, host_ratio=4.0)


def test_nothing_is_loaded_for_a_waiting_request_unless_asked_for(cache: StandaloneCache) -> None:
    demoted(cache, Workflow())
    assert not cache.cache.prefetcher.should_wait(arrived(cache, 0), others_can_run=True)


def test_a_request_that_would_hold_others_up_is_loaded_first(patient: StandaloneCache) -> None:
    cache = patient
    demoted(cache, Workflow())
    link = SlowLink(cache)
    request = arrived(cache, 0)
    assert cache.cache.prefetcher.should_wait(request, others_can_run=True)
    assert len(link.pending) == 1
    assert cache.cache.prefetcher.should_wait(request, others_can_run=True)
    assert len(link.pending) == 1, "the same load is not started twice"
    settle(cache, link)
    assert on_device(cache, 0) == PROMPT_TOKENS


def test_a_lone_request_is_left_to_sglang(cache: StandaloneCache) -> None:
    """Its batch overlaps the load with the computation, layer by layer."""
    demoted(cache, Workflow())
    link = SlowLink(cache)
    assert not cache.cache.prefetcher.should_wait(arrived(cache, 0), others_can_run=False)
    assert not link.pending


def test_no_request_waits_for_ever(patient: StandaloneCache) -> None:
    cache = patient
    demoted(cache, Workflow())
    link = SlowLink(cache)
    request = arrived(cache, 0)
    waits = 0
    while cache.cache.prefetcher.should_wait(request, others_can_run=True):
        waits += 1
        link.deliver()
        cache.one_pass()
        cache.evict(2000)  # somebody takes the room again and again
        found = cache.match(prompt(0)[:-1])
        request.best_match_node = found.best_match_node
    assert waits == MOST_WAITS


def test_a_request_gets_the_room_of_a_copy_rather_than_none(loading: Loading) -> None:
    """Slots under a copy cannot be evicted, and nothing else may be left."""
    cache, link, _ = loading
    size = cache.allocator.size
    assert cache.evict(size) + cache.allocator.available_size() > size - 10
    assert all(event.query() for event in link.pending)


@pytest.mark.parametrize("seed", range(8))
def test_any_traffic_reads_its_own_kv(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies end at random, forecasts are random, prompts share beginnings: reads are checked."""
    settings = {"prefetch_tokens": 150, "prefetch_steps": 2, "waits_for_loads": True}
    monkeypatch.setitem(os.environ, VARIABLE, json.dumps(settings))
    monkeypatch.setattr(TrackRecord, "is_good", True)
    chance = random.Random(seed)
    cache = StandaloneCache("kvflow", pool_tokens=900, host_ratio=3.0)
    link = SlowLink(cache)
    workflows = [Workflow(f"w{number}") for number in range(3)]
    started = 0
    for turn in range(150):
        workflow = chance.choice(workflows)
        agent = chance.randrange(5)
        shared = prompt(0)[: chance.choice([0, 40, 120])]
        own = [*shared, *prompt(100 + agent)[: chance.choice([60, 180])], 900_000 + turn]
        steps = {each: chance.choice([None, 0, 1, 2, 5]) for each in range(5)}
        hint = workflow.hint(steps, caller=agent) if chance.random() < 0.8 else None
        cache.run(own, [1] * chance.randrange(4), hint=hint, loads=chance.random() < 0.7)
        for _ in range(chance.randrange(3)):
            cache.one_pass()
        request = arrived(cache, 100 + agent)
        cache.cache.prefetcher.should_wait(request, others_can_run=True)
        if chance.random() < 0.5:
            started += link.deliver()
        if chance.random() < 0.02:
            cache.cache.reset()
            cache.allocator.clear()
        cache.cache.tenants.anonymous.foresight.check()
    settle(cache, link)
    check(cache)
    cache.cache.sanity_check()
    assert started > 10


def test_a_forecast_may_run_out_while_room_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({"lifetime_pools": 0.1}))
    cache = StandaloneCache("kvflow", pool_tokens=1000, host_ratio=4.0)
    workflow = Workflow()
    demoted(cache, workflow)
    link = SlowLink(cache)
    cache.cache.hear(workflow.hint({0: 0, 1: 1}))
    settle(cache, link)
    assert on_device(cache, 0) == PROMPT_TOKENS > on_device(cache, 1)
    check(cache)
