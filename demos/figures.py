"""The figures of a run, as JSON and as tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from demos.measure import CallLog, CallRecord, Counted, prompt_calls
from demos.optimum import PromptCall, optimum_cached_tokens

# In the tables; the JSON has all.
MOST_AGENTS_SHOWN = 40


@dataclass(frozen=True, slots=True)
class AgentFigures:
    """One agent's calls. A warm call had a prefix to find; a hit found half of it or more."""

    calls: int
    warm_calls: int
    prompt_tokens: int
    cached_tokens: int
    hit_rate: float | None
    mean_latency_ms: float
    usages: list[dict[str, float]]
    """Each call's, as in a report of `kvflow_agents`."""


@dataclass(frozen=True, slots=True)
class RunFigures:
    """What one workload cost under one policy."""

    workload: str
    policy: str
    host_tier: bool
    pool_tokens: int
    calls: int
    prompt_tokens: int
    cached_tokens: int
    device_cached_tokens: int
    evicted_tokens: int
    load_back_tokens: int
    prefetched_tokens: int
    adapter_loads: int | None
    optimum_cached_tokens: int
    latency_ms: dict[str, float]
    warm_latency_ms: dict[str, float]
    wall_s: float
    agents: dict[str, AgentFigures]

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return asdict(self)


def figures_of(
    workload: str,
    policy: str,
    host_tier: bool,
    *,
    pool_tokens: int,
    log: CallLog,
    counted: Counted,
) -> RunFigures:
    """Sum a run up; `counted` is what the server has counted itself."""
    calls = log.in_order()
    prompts = prompt_calls(calls)
    cached = sum(call.cached_tokens for call in calls)
    warm = [call for call, prompt in zip(calls, prompts, strict=True) if prompt.shared_tokens]
    return RunFigures(
        workload=workload,
        policy=policy,
        host_tier=host_tier,
        pool_tokens=pool_tokens,
        calls=len(calls),
        prompt_tokens=sum(call.prompt_tokens for call in calls),
        cached_tokens=cached,
        device_cached_tokens=max(cached - counted.loaded_tokens, 0),
        evicted_tokens=counted.evicted_tokens,
        load_back_tokens=counted.loaded_tokens,
        prefetched_tokens=counted.prefetched_tokens,
        adapter_loads=counted.adapter_loads,
        optimum_cached_tokens=optimum_cached_tokens(prompts, pool_tokens),
        latency_ms=_summary([call.latency_ms for call in calls]),
        warm_latency_ms=_summary([call.latency_ms for call in warm]),
        wall_s=max(c.ended_s for c in calls) - min(c.started_s for c in calls),
        agents=_by_agent(calls, prompts),
    )


def compare_answers(one: CallLog, other: CallLog) -> tuple[int, int]:
    """How many calls of two runs had the same prompt, and how many of their answers differ.

    Some apps put random identifiers into their prompts: those calls have no counterpart.
    """
    first, second = one.by_turn(), other.by_turn()
    pairs = [(first[turn], second[turn]) for turn in first.keys() & second.keys()]
    same = [(a, b) for a, b in pairs if a.tokens == b.tokens]
    return len(same), sum(a.answer != b.answer for a, b in same)


def _summary(samples: Sequence[float]) -> dict[str, float]:
    if not samples:
        return {}
    cuts = statistics.quantiles(samples, n=20, method="inclusive") if len(samples) > 1 else []
    return {
        "mean": round(statistics.fmean(samples), 1),
        "p50": round(statistics.median(samples), 1),
        "p95": round(cuts[18] if cuts else samples[0], 1),
    }


def _by_agent(
    calls: Sequence[CallRecord], prompts: Sequence[PromptCall]
) -> dict[str, AgentFigures]:
    grouped: dict[str, list[tuple[CallRecord, PromptCall]]] = {}
    for call, prompt in zip(calls, prompts, strict=True):
        grouped.setdefault(call.agent, []).append((call, prompt))
    return {agent: _agent(pairs) for agent, pairs in sorted(grouped.items())}


def _agent(pairs: Sequence[tuple[CallRecord, PromptCall]]) -> AgentFigures:
    warm = [(call, prompt) for call, prompt in pairs if prompt.shared_tokens]
    hits = sum(prompt.was_found for _, prompt in warm)
    return AgentFigures(
        calls=len(pairs),
        warm_calls=len(warm),
        prompt_tokens=sum(call.prompt_tokens for call, _ in pairs),
        cached_tokens=sum(call.cached_tokens for call, _ in pairs),
        hit_rate=round(hits / len(warm), 3) if warm else None,
        mean_latency_ms=round(statistics.fmean(call.latency_ms for call, _ in pairs), 1),
        usages=[_usage(call) for call, _ in pairs],
    )


def _usage(call: CallRecord) -> dict[str, float]:
    return {
        "when_s": round(call.started_s, 3),
        "cached_tokens": call.cached_tokens,
        "prompt_tokens": call.prompt_tokens,
    }


def tables(runs: Sequence[RunFigures]) -> RenderableType:
    """All runs, then the agents of the team's runs."""
    return Group(_runs_table(runs), *_agent_tables(runs))


def _runs_table(runs: Sequence[RunFigures]) -> Table:
    table = Table(title="Cached prompt tokens", caption=_CAPTION)
    table.add_column("workload")
    table.add_column("policy")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for run in runs:
        table.add_row(
            run.workload,
            f"[bold green]{run.policy}" if run.policy == "kvflow" else run.policy,
            "on" if run.host_tier else "off",
            f"{_share(run.cached_tokens, run.prompt_tokens)}",
            f"{run.device_cached_tokens:,}",
            _share(run.device_cached_tokens, run.optimum_cached_tokens),
            f"{run.evicted_tokens:,}",
            f"{run.load_back_tokens:,}",
            f"{run.prefetched_tokens:,}",
            f"{run.latency_ms['mean']:.0f}",
            f"{run.latency_ms['p95']:.0f}",
            f"{run.warm_latency_ms.get('mean', 0):.0f}",
            end_section=run.policy == "kvflow",
        )
    return table


_COLUMNS = (
    *("host", "cached", "on device", "of optimum", "evicted", "loaded", "ahead"),
    *("mean ms", "p95 ms", "warm ms"),
)
_CAPTION = (
    "on device: not loaded back on demand, but perhaps ahead of it; optimum: Belady's MIN over the "
    "same calls in the same pool; warm: calls of agents that have called before"
)


def _agent_tables(runs: Sequence[RunFigures]) -> list[Table]:
    shown = [run for run in runs if run.workload == runs[0].workload and not run.host_tier]
    if not shown or len(shown[0].agents) > MOST_AGENTS_SHOWN:
        return []
    table = Table("agent", title=f"Hit rate per agent, {shown[0].workload}, host tier off")
    for run in shown:
        table.add_column(run.policy, justify="right")
    for agent in shown[0].agents:
        table.add_row(agent, *(_hit_rate(run.agents.get(agent)) for run in shown))
    return [table]


def _hit_rate(agent: AgentFigures | None) -> str:
    if agent is None or agent.hit_rate is None:
        return "-"
    return f"{agent.hit_rate:.0%} of {agent.warm_calls}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"
