"""The simulated engine, on cases that can be worked out by hand and on random traffic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvflow_agents.errors import ConfigurationError
from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint
from kvflow_agents.prefetch import PIECE_TOKENS
from kvflow_agents.prefix import Tokens
from kvflow_bench import presets
from kvflow_bench.workloads import KINDS, Parameters, Workload
from kvflow_simulate import machine as machines
from kvflow_simulate.engine import Engine
from kvflow_simulate.forecasts import HINTS, Hints
from kvflow_simulate.machine import Machine
from kvflow_simulate.policies import Recency
from kvflow_simulate.requests import CallId, Request, Traffic
from kvflow_simulate.sides import CEILING, SIDES, clairvoyant
from kvflow_simulate.simulate import (
    Outcome,
    Sizes,
    engine_for,
    future_of,
    host_tokens,
    simulate,
)
from kvflow_simulate.traffic import WorkloadTraffic
from kvflow_simulate.tree import PrefixTree, path
from tests.simulate.machine import MACHINE

FIXED = 100
CYCLE = Workload(
    "cycle",
    "cycle",
    Parameters(agents=6, fixed_tokens=FIXED, dynamic_tokens=10, output_tokens=5, rounds=30),
)
# Three prefixes and what one call computes besides.
SIZES = Sizes(3 * FIXED + 14, 2000)


def run(policy: str, workload: Workload = CYCLE, machine: Machine = MACHINE) -> Outcome:
    return simulate(workload, SIDES[policy], machine, SIZES)


@pytest.mark.parametrize("policy", ["optimum-device", "ours-device"])
def test_a_cycle_finds_what_minimum_allows(policy: str) -> None:
    calls = run(policy).served
    found = sum(call.kept_tokens for call in calls) / (len(calls) * FIXED)
    assert found == pytest.approx((3 - 1) / (6 - 1), abs=1 / 30)


@pytest.mark.parametrize("policy", ["optimum-device", "ours-device"])
def test_a_long_cycle_is_within_two_hundredths_of_minimum(policy: str) -> None:
    """What (C - 1) / (N - 1) means for whole prefixes: the optimum keeps parts of one more."""
    long = replace(CYCLE, parameters=replace(CYCLE.parameters, rounds=120))
    calls = simulate(long, SIDES[policy], MACHINE, SIZES).served
    found = sum(call.kept_tokens for call in calls) / (len(calls) * FIXED)
    assert found == pytest.approx((3 - 1) / (6 - 1), abs=0.02)


@pytest.mark.parametrize("hints", ["absent", "shuffled", "reversed"])
def test_wrong_hints_find_no_less_than_recency(hints: Hints) -> None:
    long = replace(CYCLE, parameters=replace(CYCLE.parameters, rounds=120))
    recency = simulate(long, SIDES["lru"], MACHINE, SIZES)
    ours = simulate(long, SIDES["ours-device"], MACHINE, SIZES, hints=hints)
    assert ours.total("computed_tokens") <= 1.02 * recency.total("computed_tokens")


def test_learned_hints_find_most_of_what_exact_ones_do() -> None:
    long = replace(CYCLE, parameters=replace(CYCLE.parameters, rounds=60))
    exact, learned = (
        simulate(long, SIDES["ours-device"], MACHINE, SIZES, hints=hints).total("kept_tokens")
        for hints in ("exact", "learned")
    )
    assert learned > 0.9 * exact


def test_recency_finds_nothing_of_a_cycle() -> None:
    assert run("lru").total("kept_tokens") == 0


@pytest.mark.parametrize("policy", ["ours", "ours-noprefetch"])
def test_a_small_host_tier_is_no_reason_to_doubt_forecasts(policy: str) -> None:
    """It holds again what the device holds: LRU would find nothing with it either."""
    small = Sizes(SIZES.pool_tokens, SIZES.pool_tokens * 3 // 2)
    calls = simulate(CYCLE, SIDES[policy], MACHINE, small).served
    found = sum(len(call.request.prompt) - call.computed_tokens for call in calls)
    assert found / (len(calls) * FIXED) == pytest.approx((4 - 1) / (6 - 1), abs=1 / 30)


def test_a_load_overlaps_with_its_prefill() -> None:
    calls = run("hicache").served
    # 1 s of loading in four layers; 1.01 s of computing.
    assert {call.loaded_tokens for call in calls} == {FIXED}
    assert {round(call.ttft_s, 6) for call in calls} == {1.01 + 1.0 / 4}
    assert {round(call.latency_s, 6) for call in calls} == {1.26 + 4 * 0.5}


def test_on_a_slow_link_loading_ahead_pays() -> None:
    slow = replace(MACHINE, link_bytes_per_s=20.0)  # 5 s a prefix, where a call takes 3
    hicache, ours = run("hicache", machine=slow), run("ours", machine=slow)
    assert {round(call.ttft_s, 4) for call in hicache.served} == {round(5 + 1.01 / 4, 4)}
    assert ours.elapsed_s < hicache.elapsed_s


def test_what_is_loaded_ahead_is_found_on_the_device() -> None:
    calls = run("ours").served
    assert sum(call.loaded_tokens for call in calls) == 0
    assert {round(call.ttft_s, 6) for call in calls} == {1.01}


@pytest.mark.parametrize(
    ("policy", "piece_tokens", "ends"),
    [("ours", 1, {PIECE_TOKENS}), ("optimum", 40, {40, 80})],
)
def test_where_there_is_too_little_room_nodes_are_cut_into_whole_pieces(
    policy: str, piece_tokens: int, ends: set[int]
) -> None:
    sizes = Sizes(190, 2000)
    future = future_of(simulate(CYCLE, CEILING, MACHINE, sizes))
    side = SIDES[policy]
    if side.knows_the_future:
        side = replace(side, make=partial(clairvoyant, piece_tokens=piece_tokens))
    engine = engine_for(side, MACHINE, sizes, future)
    engine.run(WorkloadTraffic(CYCLE, hints="exact"))
    found = {sum(len(each.key) for each in path(node)) for node in engine.tree.nodes()}
    assert {end for end in found if end < FIXED} == ends


def test_what_is_loaded_ahead_makes_way_for_no_answer_under_way() -> None:
    preset, machine = presets.named("h100"), machines.named("h100-8b")
    (workload,) = presets.select(preset, ["concurrent-64"], {})
    sizes = Sizes(45_000, host_tokens(preset, machine, 45_000))
    outcome = simulate(workload, SIDES["ours"], machine, sizes)
    assert outcome.counts["prefetch_wasted_tokens"] < 0.05 * outcome.counts["prefetched_tokens"]
    assert outcome.counts["prefetched_tokens"] > 100_000


def test_everything_fits_in_the_ceiling() -> None:
    outcome = simulate(CYCLE, CEILING, MACHINE, SIZES)
    assert outcome.total("kept_tokens") == FIXED * len(outcome.served)


def test_long_prompts_are_prefilled_in_chunks() -> None:
    engine = Engine(
        replace(MACHINE, chunk_tokens=40), pool_tokens=200, host_tokens=0, policy=Recency
    )
    (served,) = engine.run(_Once(Request(CallId(0, 0), "a", Tokens("q", range(100)), Tokens("q"))))
    assert served.ttft_s == pytest.approx(3 * 1.0 + 0.1)


def test_a_prompt_that_can_never_fit_is_refused() -> None:
    engine = Engine(MACHINE, pool_tokens=50, host_tokens=0, policy=Recency)
    with pytest.raises(ConfigurationError, match="does not fit"):
        engine.run(_Once(Request(CallId(0, 0), "a", Tokens("q", range(100)), Tokens("q"))))


def _request(number: int, *, answer_tokens: int = 0) -> Request:
    prompt, answer = Tokens("q", [number]) * 100, Tokens("q", [-1]) * answer_tokens
    return Request(CallId(0, number), "a", prompt, answer)


def test_requests_that_have_their_time_are_sent_then_whatever_the_engine_is_at() -> None:
    at_s = [0.25, 0.25, 0.5, 100.0]
    engine = Engine(MACHINE, pool_tokens=1000, host_tokens=0, policy=Recency)
    served = engine.run(_Timed([(each, _request(n)) for n, each in enumerate(at_s)]))
    assert [call.sent_s for call in served] == at_s
    # The third finds the first two in a prefill, the last an idle engine.
    ends_s = [0.25 + 1.2, 0.25 + 1.2, 0.25 + 1.2 + 1.1, 100.0 + 1.1]
    assert [call.ended_s for call in served] == pytest.approx(ends_s)


def test_a_request_that_has_its_time_arrives_between_two_decode_steps() -> None:
    long = _request(0, answer_tokens=20)
    engine = Engine(MACHINE, pool_tokens=1000, host_tokens=0, policy=Recency)
    served = engine.run(_Timed([(0.0, long), (2.0, _request(1))]))
    # Steps end at 1.6 and 2.1 s: the first one after it was sent is the one before its prefill.
    assert served[0].first_token_s == pytest.approx(2.1 + 1.1)


class _Heard(Recency):
    """What a policy is told, and when."""

    def __init__(self, tree: PrefixTree) -> None:
        super().__init__(tree)
        self.heard: list[tuple[str, float]] = []

    def arrived(self, request: Request, now_s: float) -> None:
        self.heard.append((f"call {request.id.number}", now_s))

    def told(self, hint: Hint, now_s: float) -> None:
        self.heard.append((hint.workflow, now_s))


def test_a_hint_of_its_own_is_heard_between_the_calls_before_and_after_it() -> None:
    def told(name: str) -> Hint:
        return Hint(name, Forecast(1, done=True))

    busy = replace(MACHINE, overhead_s=0.5, frontend_s=0.25)
    engine = Engine(busy, pool_tokens=1000, host_tokens=0, policy=_Heard)
    sent: list[tuple[float, Request | Hint | None]] = [
        (0.0, _request(0)),
        (0.0, told("one")),
        (0.0, _request(1)),
        (0.0, None),
        (50.0, told("other")),
    ]
    assert len(engine.run(_Timed(sent))) == 2
    assert isinstance(engine.policy, _Heard)
    assert [who for who, _ in engine.policy.heard] == ["call 0", "one", "call 1", "other"]
    assert engine.policy.heard[0][1] == 0.75 == engine.policy.heard[1][1]
    assert engine.policy.heard[-1][1] == 50.5


def test_what_was_sent_before_an_answer_is_sent_before_it_is_heard() -> None:
    traffic = _Timed([(0.0, _request(0)), (0.5, _request(1)), (1.5, _request(2))])
    Engine(MACHINE, pool_tokens=1000, host_tokens=0, policy=Recency).run(traffic)
    assert traffic.log == ["send", "send", "answered 0", "send", "answered 1", "answered 2"]


class _Timed(Traffic):
    def __init__(self, sent: Sequence[tuple[float, Request | Hint | None]]) -> None:
        self._left = list(sent)
        self.log: list[str] = []

    def first(self) -> list[Request]:
        return []

    def answered(self, request: Request) -> list[Request]:
        self.log.append(f"answered {request.id.number}")
        return []

    @property
    def next_s(self) -> float:
        return self._left[0][0] if self._left else math.inf

    def send(self) -> Request | Hint | None:
        self.log.append("send")
        return self._left.pop(0)[1]


class _Once(Traffic):
    def __init__(self, request: Request) -> None:
        self._request = request

    def first(self) -> list[Request]:
        return [self._request]

    def answered(self, request: Request) -> list[Request]:
        return []


class _Checked(WorkloadTraffic):
    """Looks at the books after every answer."""

    engine: Engine

    def answered(self, request: Request) -> list[Request]:
        self.engine.tree.check()
        self.engine.adapters.check()
        assert self.engine.free_tokens >= 0
        return list(super().answered(request))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    policy=st.sampled_from(["lru", "lru-overlap", "hicache", "papers", "ours", "ours-device"]),
    hints=st.sampled_from(HINTS),
    sizes=st.builds(
        Parameters,
        workflows=st.integers(1, 3),
        agents=st.integers(2, 4),
        shared_tokens=st.integers(0, 20),
        fixed_tokens=st.integers(20, 60),
        dynamic_tokens=st.integers(1, 12),
        output_tokens=st.integers(1, 6),
        adapters=st.integers(0, 4),
        rounds=st.just(2),
        seed=st.integers(0, 5),
    ),
    pool_tokens=st.integers(160, 500),
    host_tokens=st.integers(1, 900),
    chunk_tokens=st.integers(8, 200),
    link=st.sampled_from([5.0, 50.0, 5000.0]),
    slots=st.integers(1, 5),
)
def test_the_books_are_right_whatever_happens(
    kind: str,
    policy: str,
    hints: Hints,
    sizes: Parameters,
    pool_tokens: int,
    host_tokens: int,
    chunk_tokens: int,
    link: float,
    slots: int,
) -> None:
    side = SIDES[policy]
    said: Hints = hints if side.is_hinted else "absent"
    traffic = _Checked(Workload("any", kind, sizes), hints=said, clock=lambda: engine.now_s)
    engine = traffic.engine = Engine(
        replace(MACHINE, chunk_tokens=chunk_tokens, link_bytes_per_s=link, adapter_bytes=50),
        pool_tokens=pool_tokens,
        host_tokens=host_tokens if side.has_host_tier else 0,
        policy=lambda tree: side.make(tree, None),
        slots=slots,
        overlaps_loras=side.overlaps_loras,
    )
    served = engine.run(traffic)
    traffic.count()
    served += engine.run(traffic)
    for call in served:
        assert call.sent_s < call.first_token_s <= call.ended_s
        counts = (call.kept_tokens, call.prefetched_tokens, call.loaded_tokens)
        assert min(*counts, call.computed_tokens - 1) >= 0
        assert sum(counts) + call.computed_tokens == len(call.request.prompt)
    flight = engine.early.flight
    assert flight is None
    assert engine.tree.evictable_tokens == engine.tree.device_used
    assert engine.free_tokens + engine.tree.device_used == pool_tokens
