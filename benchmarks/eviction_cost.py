"""What one eviction call costs, by tree core, leaves in the tree and agents known.

Beside it what the cache costs a whole request: match, allocate, insert, learn, without eviction.

Run in the server's environment: `.venv-server/bin/python benchmarks/eviction_cost.py`.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import MAX_AGENTS, Hint
from kvflow_sglang.standalone import Core, StandaloneCache

LEAF_TOKENS = 64
SHARED_TOKENS = 256
SHARED_PREFIXES = 20
AGENTS_PER_WORKFLOW = 10


class Bench:
    """A full cache: shared prefixes, leaves below them, some of which are agents' prompts."""

    def __init__(self, core: Core, *, leaves: int, agents: int) -> None:
        pool_tokens = leaves * LEAF_TOKENS + SHARED_PREFIXES * SHARED_TOKENS + LEAF_TOKENS
        self.cache = StandaloneCache(core, pool_tokens=pool_tokens)
        self.hints = core == "kvflow"
        self.made = 0
        for index in range(leaves):
            self.add_leaf(agent=index if index < agents else None)

    def add_leaf(self, agent: int | None = None) -> None:
        shared = [self.made % SHARED_PREFIXES] * SHARED_TOKENS
        own = [1_000 + self.made] * (LEAF_TOKENS - 1) + [7]
        hint = None if agent is None or not self.hints else _hint(agent, self.made)
        self.made += 1
        self.cache.run(shared + own, hint=hint)

    def evict_one_us(self) -> float:
        gc.disable()
        start = time.perf_counter()
        evicted = self.cache.evict(LEAF_TOKENS)
        elapsed = time.perf_counter() - start
        gc.enable()
        assert evicted == LEAF_TOKENS, f"{evicted} tokens evicted instead of one leaf"
        return elapsed * 1e6


def _hint(agent: int, seq: int) -> Hint:
    """Each workflow's agents run one after another, so that all steps occur."""
    first = agent - agent % AGENTS_PER_WORKFLOW
    steps = {f"a{first + step}": step for step in range(AGENTS_PER_WORKFLOW)}
    assert len(steps) <= MAX_AGENTS
    return Hint(f"w{first}", Forecast(seq, steps), agent=f"a{agent}", app="bench")


def measure(core: Core, leaves: int, agents: int, calls: int) -> dict[str, Any]:
    """Median and 99th percentile of one call; the tree is refilled after each."""
    bench = Bench(core, leaves=leaves, agents=agents)
    samples, cached = [], []
    for _ in range(calls):
        samples.append(bench.evict_one_us())
        start = time.perf_counter()
        bench.add_leaf()
        cached.append((time.perf_counter() - start) * 1e6)
    return {
        "core": core,
        "leaves": leaves,
        "agents": agents,
        "calls": calls,
        "median_us": round(statistics.median(samples), 1),
        "p99_us": round(statistics.quantiles(samples, n=100)[98], 1),
        "request_us": round(statistics.median(cached), 1),
    }


def main(
    leaves: Annotated[str, typer.Option(help="Leaves in the tree.")] = "1000,10000,40000",
    agents: Annotated[str, typer.Option(help="Agents known.")] = "200,1000,10000",
    calls: Annotated[int, typer.Option(help="Eviction calls per case.")] = 200,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Time one eviction call that frees one leaf of 64 tokens."""
    cases: list[tuple[Core, int, int]] = []
    for count in map(int, leaves.split(",")):
        cases += [("rust", count, 0), ("python", count, 0), ("kvflow", count, 0)]
        cases += [
            ("kvflow", count, known) for known in map(int, agents.split(",")) if known <= count
        ]
    results = [
        measure(*case, calls) for case in track(cases, "evicting", console=Console(stderr=True))
    ]
    _print(results)
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=1) + "\n")


def _print(results: list[dict[str, Any]]) -> None:
    rust = {each["leaves"]: each["median_us"] for each in results if each["core"] == "rust"}
    table = Table("leaves", "core", "agents", title="One eviction that frees one leaf")
    for name in ("median µs", "p99 µs", "x Rust", "request µs"):
        table.add_column(name, justify="right")
    for each in results:
        ratio = f"{each['median_us'] / rust[each['leaves']]:.2f}"
        row = [each[key] for key in ("leaves", "core", "agents", "median_us", "p99_us")]
        table.add_row(*map(str, row), ratio, str(each["request_us"]))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
