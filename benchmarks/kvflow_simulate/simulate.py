"""Workloads against policies: what each would cost on a machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from kvflow_bench.figures import percentile
from kvflow_bench.presets import Preset
from kvflow_bench.workloads import Workload
from kvflow_simulate.clairvoyant import Future
from kvflow_simulate.engine import Engine
from kvflow_simulate.forecasts import Hints
from kvflow_simulate.machine import Machine
from kvflow_simulate.requests import Served
from kvflow_simulate.sides import CEILING, SAME_TIERS, SIDES, Side
from kvflow_simulate.traffic import WorkloadTraffic


@dataclass(frozen=True, slots=True)
class Sizes:
    """The pools of a server, in tokens."""

    pool_tokens: int
    host_tokens: int
    slots: int = 1
    """For LoRA adapters, the base model included."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The counted calls of one workload under one policy, in order of completion."""

    workload: str
    policy: str
    served: tuple[Served, ...]
    warm_up: tuple[Served, ...]
    elapsed_s: float
    counts: Mapping[str, int]
    """Tokens evicted, loaded on demand, loaded ahead, and of those read and wasted; waits; the
    same of adapters."""
    cpu_s: float = 0.0
    """What it took to simulate, warm-up included."""

    def total(self, name: str) -> int:
        """The sum of one of the calls' counts."""
        return sum(getattr(call, name) for call in self.served)


def compare(
    workloads: Iterable[Workload],
    sides: Sequence[Side],
    machine: Machine,
    sizes: Sizes,
    *,
    hints: Hints = "exact",
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Each workload under each policy, after a run in which everything fits.

    `hints` says what policies that heed any are told.
    """
    outcomes = []
    for workload in workloads:
        ceiling = simulate(workload, CEILING, machine, sizes)
        foresees = any(side.knows_the_future for side in sides)
        future = future_of(ceiling) if foresees else None
        for side in (CEILING, *sides):
            outcome = (
                ceiling
                if side is CEILING
                else simulate(workload, side, machine, sizes, future, hints)
            )
            on_outcome(outcome)
            outcomes.append(outcome)
    return outcomes


def simulate(
    workload: Workload,
    side: Side,
    machine: Machine,
    sizes: Sizes,
    future: Future | None = None,
    hints: Hints = "exact",
) -> Outcome:
    """One workload under one policy, from an empty cache."""
    if side.knows_the_future and future is None:
        future = future_of(simulate(workload, CEILING, machine, sizes))
    begun_s = time.process_time()
    adapters = workload.parameters.adapters
    if side.fits_everything:
        sizes = replace(sizes, pool_tokens=workload.footprint_tokens())
    if side.fits_everything or not adapters:
        sizes = replace(sizes, slots=adapters + 1)
    engine = engine_for(side, machine, sizes, future)
    said: Hints = hints if side.is_hinted else "absent"
    traffic = WorkloadTraffic(workload, hints=said, clock=lambda: engine.now_s)
    warm_up = engine.run(traffic)
    started_s, before = engine.now_s, counts_of(engine)
    traffic.count()
    served = engine.run(traffic)
    counts = {name: count - before[name] for name, count in counts_of(engine).items()}
    return Outcome(
        workload.name,
        side.name,
        tuple(served),
        tuple(warm_up),
        engine.now_s - started_s,
        counts,
        time.process_time() - begun_s,
    )


def engine_for(side: Side, machine: Machine, sizes: Sizes, future: Future | None) -> Engine:
    """An empty engine, with the policy of a side and what that has to work with."""
    return Engine(
        machine,
        pool_tokens=sizes.pool_tokens,
        host_tokens=sizes.host_tokens if side.has_host_tier else 0,
        policy=lambda tree: side.make(tree, future),
        slots=sizes.slots,
        overlaps_loras=side.overlaps_loras,
        is_stock=not (side.is_hinted or side.knows_the_future),
    )


def future_of(outcome: Outcome) -> Future:
    """What who knows that run knows of the next one, calls in the order in which they left."""
    calls = sorted((*outcome.warm_up, *outcome.served), key=lambda served: served.sent_s)
    return Future([call.request for call in calls])


def counts_of(engine: Engine) -> dict[str, int]:
    """The engine's counts so far."""
    engine.early.note_wasted()
    early = engine.early.counts
    return {
        "evicted_tokens": engine.counts["evicted_tokens"],
        "loaded_tokens": engine.counts["loaded_tokens"],
        "prefetched_tokens": early["prefetched_tokens"],
        "prefetch_used_tokens": early["used_tokens"],
        "prefetch_wasted_tokens": early["wasted_tokens"],
        "waits": early["waits"],
        **{name: engine.adapters.counts[name] for name in ADAPTER_COUNTS},
    }


def figures(outcome: Outcome) -> dict[str, Any]:
    """What is reported of an outcome, times in milliseconds."""
    calls = outcome.served
    return {
        "workload": outcome.workload,
        "policy": outcome.policy,
        "calls": len(calls),
        "elapsed_s": outcome.elapsed_s,
        "mean_latency_ms": 1000 * fmean(call.latency_s for call in calls),
        "mean_ttft_ms": 1000 * fmean(call.ttft_s for call in calls),
        "p95_latency_ms": 1000 * percentile([call.latency_s for call in calls], 95),
        "p95_ttft_ms": 1000 * percentile([call.ttft_s for call in calls], 95),
        "prompt_tokens": _prompt_tokens(outcome),
        "hit_rate": 1 - outcome.total("computed_tokens") / _prompt_tokens(outcome),
        "kept_tokens": outcome.total("kept_tokens"),
        "prefetch_found_tokens": outcome.total("prefetched_tokens"),
        "host_tokens": outcome.total("loaded_tokens"),
        "computed_tokens": outcome.total("computed_tokens"),
        **outcome.counts,
        "adapter_hit_share": _adapter_hit_share(outcome),
        "cpu_s": outcome.cpu_s,
    }


def _prompt_tokens(outcome: Outcome) -> int:
    return sum(len(call.request.prompt) for call in outcome.served)


def _adapter_hit_share(outcome: Outcome) -> float | None:
    """The share of calls for which nothing had to be loaded; None if all use the base model."""
    if all(call.request.adapter is None for call in outcome.served):
        return None
    return 1 - outcome.counts["adapter_loads"] / len(outcome.served)


def policies_for(workloads: Iterable[Workload]) -> Sequence[str]:
    """The policies that are compared if nobody says which."""
    has_adapters = any(workload.parameters.adapters for workload in workloads)
    return LORA_POLICIES if has_adapters else DEFAULT_POLICIES


def with_ratios(outcomes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Figures with mean latencies over those of the ceiling and of the optimum, where they ran.

    And what was computed over what LRU and the optimum compute with the same tiers.
    """
    latency = {(row["workload"], row["policy"]): row["mean_latency_ms"] for row in outcomes}
    computed = {(row["workload"], row["policy"]): row["computed_tokens"] for row in outcomes}
    rows = []
    for row in outcomes:
        ratios = {}
        for policy in (CEILING.name, "optimum"):
            base = latency.get((row["workload"], policy))
            ratios[f"latency_of_{policy}"] = row["mean_latency_ms"] / base if base else None
        side = SIDES.get(row["policy"])
        for name, same_tiers in SAME_TIERS.items():
            policy = "" if side is None else same_tiers[side.has_host_tier]
            base = computed.get((row["workload"], policy))
            ratios[f"computed_of_{name}"] = row["computed_tokens"] / base if base else None
        rows.append({**row, **ratios})
    return rows


def host_tokens(preset: Preset, machine: Machine, pool_tokens: int) -> int:
    """The host tier that a preset's flags give a server of SGLang's."""
    if not preset.host_flags:
        return 0
    option, value = preset.host_flags
    if option == "--hicache-ratio":
        return int(float(value) * pool_tokens)
    assert option == "--hicache-size", f"{option} gives no size"
    return int(float(value) * 1e9 / machine.token_bytes)


DEFAULT_POLICIES = ("lru", "hicache", "papers", "ours", "optimum")
LORA_POLICIES = ("lru", "lru-overlap", "ours-device", "optimum-device")
ADAPTER_COUNTS = (
    "adapter_loads",
    "adapter_prefetches",
    "adapter_prefetches_used",
    "adapter_prefetches_wasted",
)
