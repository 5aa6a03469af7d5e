"""Admission: which requests are passed over, when, and for how long at most."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from kvflow_agents.prefetch import MOST_WAITS
from kvflow_sglang.admission import PatientPrefillAdder, make_patient
from kvflow_sglang.compat.scheduler import AddReqResult, PrefillAdder
from kvflow_sglang.settings import VARIABLE
from kvflow_sglang.standalone import StandaloneCache
from tests.sglang.slow_link import SlowLink
from tests.sglang.test_prefetch import Workflow, demoted, prompt


class Adder(PrefillAdder):
    """Admits whatever it is given; another subclass of SGLang's, as other plugins have them."""

    rem_total_tokens = 1000

    def __init__(self, cache: Any, running: int = 0) -> None:
        self.tree_cache = cache
        self.page_size = 1
        self.running_batch = SimpleNamespace(reqs=[None] * running)
        self.can_run_list: list[Any] = []
        self.preempt_list: list[Any] = []

    def add_one_req(self, req: Any, *args: Any) -> AddReqResult:
        self.can_run_list.append(req)
        return AddReqResult.CONTINUE


PatientAdder: Any = make_patient(Adder)


def request(tokens: list[int], *, node: Any = None, host_tokens: int = 0) -> Any:
    """A waiting request, matched as the scheduler matches it before admission."""
    return Waiting(tokens, node, host_tokens)


class Waiting:
    prefix_len = 0

    def __init__(self, tokens: list[int], node: Any, host_tokens: int) -> None:
        self.full_untruncated_fill_ids = tokens
        self.best_match_node = node
        self.host_hit_length = host_tokens


def matched(cache: StandaloneCache, agent: int) -> Any:
    found = cache.match(prompt(agent)[:-1])
    made = request(prompt(agent), node=found.best_match_node, host_tokens=found.host_hit_length)
    made.prefix_len = found.device_prefix_len
    return made


def admitted(cache: StandaloneCache, waiting: list[Any]) -> list[Any]:
    """Those whom one pass admits, in order."""
    adder = PatientAdder(cache.cache)
    for each in waiting:
        assert adder.add_one_req(each, False, None) is AddReqResult.CONTINUE
    found: list[Any] = adder.can_run_list
    return found


def test_a_request_whose_prefix_is_loading_is_passed_over_and_others_run() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=1000, host_ratio=4.0)
    workflow = Workflow()
    demoted(cache, workflow)
    link = SlowLink(cache)
    cache.cache.hear(workflow.hint({0: 0, 1: 9, 2: 8, 3: 8, 4: 8}))
    cache.one_pass()
    assert link.pending
    for _ in range(3):
        loading, other = matched(cache, 0), request([1, 2, 3])
        assert admitted(cache, [loading, other]) == [other]
        assert admitted(cache, [loading]) == [], "alone it waits, too: its KV is on the way"
    link.deliver()
    cache.one_pass()
    ready, other = matched(cache, 0), request([1, 2, 3])
    assert admitted(cache, [ready, other]) == [ready, other]


def test_a_request_is_passed_over_for_so_many_loads_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({"waits_for_loads": True}))
    cache = StandaloneCache("kvflow", pool_tokens=1000, host_ratio=4.0)
    demoted(cache, Workflow())
    link = SlowLink(cache)
    starved, passes = matched(cache, 0), 0
    while admitted(cache, [request([1]), starved])[1:] != [starved]:
        passes += 1
        assert passes <= MOST_WAITS
        link.deliver()
        cache.one_pass()
        cache.evict(2000)  # somebody takes the room again and again
        starved.best_match_node = cache.match(prompt(0)[:-1]).best_match_node
    assert passes == MOST_WAITS


class Recorder:
    """A prefetcher that lets everybody wait, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[bool] = []

    def should_wait(self, request: Any, *, others_can_run: bool) -> bool:
        self.asked.append(others_can_run)
        return True


@pytest.mark.parametrize(
    ("running", "batched", "tokens", "others_can_run"),
    [(0, 0, 10, False), (1, 0, 10, True), (0, 1, 10, True), (1, 1, 998, True), (1, 1, 999, False)],
)
def test_others_can_run_if_there_are_any_and_the_request_itself_has_room(
    running: int, batched: int, tokens: int, others_can_run: bool
) -> None:
    """A load for a request that has no room to run would only push others out."""
    recorder = Recorder()
    adder = PatientAdder(SimpleNamespace(prefetcher=recorder), running)
    adder.can_run_list = [None] * batched
    adder.add_one_req(request([0] * tokens, host_tokens=5), False, None)
    assert recorder.asked == [others_can_run]
    assert len(adder.can_run_list) == batched


def test_who_needs_no_load_or_has_no_host_tier_is_left_to_sglang() -> None:
    recorder = Recorder()
    for prefetcher, host_tokens in [(recorder, 0), (None, 5)]:
        adder = PatientAdder(SimpleNamespace(prefetcher=prefetcher))
        adder.add_one_req(request([1], host_tokens=host_tokens), False, None)
        assert len(adder.can_run_list) == 1
    assert recorder.asked == []


def test_any_class_of_adders_is_made_patient() -> None:
    assert make_patient(PrefillAdder) is PatientPrefillAdder
    assert issubclass(PatientAdder, PatientPrefillAdder) and issubclass(PatientAdder, Adder)


def test_a_request_for_which_others_were_retracted_does_not_wait() -> None:
    recorder = Recorder()
    adder = PatientAdder(SimpleNamespace(prefetcher=recorder), running=1)
    adder.preempt_list = ["a request that has made room"]
    waiting = request([0] * 10, host_tokens=5)
    adder.add_one_req(waiting, False, None)
    assert (adder.can_run_list, recorder.asked) == ([waiting], [])
