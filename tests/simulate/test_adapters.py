"""LoRA adapters on the simulated engine, on cases that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvflow_agents.lora_ledger import Adapter
from kvflow_agents.prefix import Tokens
from kvflow_bench.workloads import Parameters, Workload
from kvflow_simulate.engine import Engine
from kvflow_simulate.machine import Machine
from kvflow_simulate.policies import Recency
from kvflow_simulate.requests import CallId, Request, Served, Traffic
from kvflow_simulate.sides import CEILING, SIDES
from kvflow_simulate.simulate import Outcome, Sizes, figures, simulate
from kvflow_simulate.traffic import WorkloadTraffic

# An adapter is loaded in 2 s, a call prefilled in 1.01 s; its four steps take 2 s more.
MACHINE = Machine(
    prefill_fixed_s=1.0,
    prefill_tokens_per_s=1000.0,
    decode_fixed_s=0.5,
    link_bytes_per_s=100.0,
    adapter_bytes=200,
    token_bytes=1,
)
AGENTS, SLOTS, ROUNDS = 6, 3, 30
CYCLE = Workload(
    "cycle",
    "cycle",
    Parameters(
        agents=AGENTS,
        adapters=AGENTS,
        fixed_tokens=100,
        dynamic_tokens=10,
        output_tokens=5,
        rounds=ROUNDS,
    ),
)
# All KV fits, so that adapters alone decide.
SIZES = Sizes(CYCLE.footprint_tokens(), 0, SLOTS)


def run(policy: str, machine: Machine = MACHINE) -> Outcome:
    return simulate(CYCLE, SIDES[policy], machine, SIZES)


def hit_share(outcome: Outcome) -> float:
    share = figures(outcome)["adapter_hit_share"]
    assert isinstance(share, float)
    return share


def ttfts_s(outcome: Outcome) -> set[float]:
    return {round(call.ttft_s, 6) for call in outcome.served}


def test_everything_fits_in_the_ceiling() -> None:
    outcome = simulate(CYCLE, CEILING, MACHINE, SIZES)
    assert hit_share(outcome) == 1
    assert ttfts_s(outcome) == {1.01}


@pytest.mark.parametrize("policy", ["lru", "lru-overlap"])
def test_recency_finds_no_adapter_of_a_cycle(policy: str) -> None:
    outcome = run(policy)
    assert hit_share(outcome) == 0
    assert ttfts_s(outcome) == {2 + 1.01}


def test_the_optimum_finds_what_minimum_allows() -> None:
    share = hit_share(run("optimum-device"))
    assert share == pytest.approx((SLOTS - 1) / (AGENTS - 1), abs=1 / ROUNDS)


def test_by_distance_finds_as_much_without_loading_ahead() -> None:
    assert hit_share(run("ours-noprefetch")) == hit_share(run("optimum-device"))


def test_loaded_ahead_every_adapter_is_there() -> None:
    # 1.5 s a load: it begins with the second of four steps, for arrivals go first.
    outcome = run("ours-device", replace(MACHINE, adapter_bytes=150))
    assert hit_share(outcome) == 1
    assert ttfts_s(outcome) == {1.01}


def test_a_load_that_gave_way_to_an_arrival_is_late_by_as_much() -> None:
    outcome = run("ours-device")
    assert hit_share(outcome) == 1
    assert ttfts_s(outcome) == {1.01, 1.51}


def test_on_a_slow_link_a_call_waits_for_what_is_left_of_its_load() -> None:
    # 5 s a load, where a call takes 3: it is on its way when it is asked for.
    outcome = run("ours-device", replace(MACHINE, link_bytes_per_s=40.0))
    assert hit_share(outcome) > hit_share(run("ours-noprefetch"))
    assert 1.01 < max(ttfts_s(outcome)) < 5 + 1.01


def test_without_overlap_a_load_holds_up_the_whole_batch() -> None:
    calls = _at_once(overlaps=False)
    assert {round(call.ttft_s, 6) for call in calls} == {2 + 1.02}


def test_with_overlap_others_run_meanwhile() -> None:
    base, adapted = sorted(_at_once(overlaps=True), key=lambda call: call.request.id)
    assert base.ttft_s == pytest.approx(1.01)
    # After its load, and the step during which that ended.
    assert adapted.ttft_s == pytest.approx(2.01 + 1.01)


def test_more_adapters_than_slots_take_turns() -> None:
    calls = _serve([("a", "b"), ("b", "c"), ("c", "d")], slots=1, overlaps=True)
    # One load and one call after another: 3.01 s, then two steps of the answer.
    assert [round(call.ended_s, 6) for call in calls] == [4.01, 8.02, 12.03]


def test_agents_with_adapters_of_their_own_share_no_kv() -> None:
    shared = replace(CYCLE, parameters=replace(CYCLE.parameters, shared_tokens=100))
    first = [request.prompt[:100] for request in _all_requests(WorkloadTraffic(shared))[:AGENTS]]
    assert len({bytes(prompt) for prompt in first}) == AGENTS


def test_the_base_model_alone_has_no_share_of_hits() -> None:
    plain = replace(CYCLE, parameters=replace(CYCLE.parameters, adapters=0))
    assert figures(simulate(plain, SIDES["lru"], MACHINE, SIZES))["adapter_hit_share"] is None


def _all_requests(traffic: WorkloadTraffic) -> list[Request]:
    requests: list[Request] = []
    coming = list(traffic.first())
    while coming:
        requests += coming
        coming = [each for request in coming for each in traffic.answered(request)]
    return requests


def _at_once(*, overlaps: bool) -> list[Served]:
    return _serve([("base", None), ("adapted", "a")], slots=2, overlaps=overlaps)


def _serve(calls: list[tuple[str, Adapter]], *, slots: int, overlaps: bool) -> list[Served]:
    """Calls of ten tokens that all come at once, in order of completion; two answer steps each."""
    requests = [
        Request(
            CallId(number, 0),
            agent,
            Tokens("q", [1000 * number + each for each in range(10)]),
            Tokens("q", [-number - 1, -number - 100]),
            adapter=adapter,
        )
        for number, (agent, adapter) in enumerate(calls)
    ]
    engine = Engine(
        MACHINE,
        pool_tokens=1000,
        host_tokens=0,
        policy=Recency,
        slots=slots,
        overlaps_loras=overlaps,
    )
    return engine.run(_AtOnce(requests))


class _AtOnce(Traffic):
    def __init__(self, requests: list[Request]) -> None:
        self._requests = requests

    def first(self) -> list[Request]:
        return self._requests

    def answered(self, request: Request) -> list[Request]:
        return []
