"""What a request costs the scheduler's thread in the cache, with both tiers and no GPU.

Run in the server's environment: `.venv-server/bin/python benchmarks/scheduler_cost.py`.

Workflows of ten agents call in turn, each with a prompt of its own, in pools that hold a quarter of
the prompts on the device and all of them on the host. Everything that the scheduler does with the
cache is counted, in CPU time: hear, match, load, evict, insert, back up, learn, prefetch, and a
pass for each token of the answer. What stands in for the model is not. Copies are plain copies of
four bytes a token. So compare cores, not milliseconds: each request goes through all of them in
turn, and their ratio is the median of each request's.
"""

from __future__ import annotations

import json
import logging
import random
import statistics
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint
from kvflow_sglang.standalone import Core, StandaloneCache

AGENTS = 10
PREFIX_TOKENS = 512
TAIL_TOKENS = 32
WORKFLOWS = (1, 16, 64)
ARMS: tuple[tuple[str, Core, bool], ...] = (
    ("rust", "rust", False),
    ("python", "python", False),
    ("kvflow, no hints", "kvflow", False),
    ("kvflow, hints", "kvflow", True),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time of one request in the cache."""

    workflows: int
    arm: str
    median_us: float
    p99_us: float
    times_rust: float


def requests(workflows: int, rounds: int) -> Iterator[tuple[list[int], Hint]]:
    """Prompts in the order in which they come, and what a hint would say with each."""
    chance = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [chance.randrange(10, 30_000) for _ in range(count)]

    agents = range(AGENTS)
    prefixes = [[tokens(PREFIX_TOKENS) for _ in agents] for _ in range(workflows)]
    for call in range(rounds * AGENTS):
        agent = call % AGENTS
        steps = {f"agent{each}": (each - agent) % AGENTS for each in agents}
        for workflow in range(workflows):
            hint = Hint(f"w{workflow}", Forecast(call, steps), agent=f"agent{agent}", app="app")
            yield prefixes[workflow][agent] + tokens(TAIL_TOKENS), hint


class Cache(StandaloneCache):
    """One that knows how long it was busy with what is not the cache's."""

    apart_ns = 0

    def _fill(self, slots: Any, tokens: array[int]) -> None:
        with self._apart():
            super()._fill(slots, tokens)

    def kv(self, slots: Any) -> list[int]:
        with self._apart():
            return super().kv(slots)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        started_ns = time.process_time_ns()
        yield
        self.apart_ns += time.process_time_ns() - started_ns


def measure(workflows: int, rounds: int) -> list[list[float]]:
    """The cost of every request after the first round, in microseconds, arm by arm."""
    pool_tokens = max(workflows * AGENTS * PREFIX_TOKENS // 4, 4 * PREFIX_TOKENS)
    caches = [Cache(core, pool_tokens=pool_tokens, host_ratio=8.0) for _, core, _ in ARMS]
    costs: list[list[float]] = [[] for _ in ARMS]
    for number, (prompt, hint) in enumerate(requests(workflows, rounds)):
        for turn in range(len(ARMS)):
            arm = (number + turn) % len(ARMS)
            costs[arm].append(_cost_us(caches[arm], prompt, hint if ARMS[arm][2] else None))
    return [each[workflows * AGENTS :] for each in costs]


def _cost_us(cache: Cache, prompt: Sequence[int], hint: Hint | None) -> float:
    started_ns = time.process_time_ns() - cache.apart_ns
    cache.run(prompt, range(TAIL_TOKENS), hint=hint)
    cache.one_pass()
    return (time.process_time_ns() - cache.apart_ns - started_ns) / 1000


def table(costs: Sequence[Cost]) -> Table:
    made = Table("workflows", "core", title="A request in the cache, CPU time")
    for column in ("median, us", "99th percentile, us", "times Rust"):
        made.add_column(column, justify="right")
    for cost in costs:
        figures = (f"{cost.median_us:,.0f}", f"{cost.p99_us:,.0f}", f"{cost.times_rust:.2f}")
        made.add_row(str(cost.workflows), cost.arm, *figures, end_section=cost.arm == ARMS[-1][0])
    return made


def main(
    rounds: Annotated[int, typer.Option(min=2, help="Of all agents; one is not counted.")] = 4,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Measure what a request costs in the cache, for each tree core and 1, 16, 64 workflows."""
    logging.disable(logging.WARNING)
    # Threads that spin while they wait for work would count as well.
    torch.set_num_threads(1)
    costs: list[Cost] = []
    for workflows in WORKFLOWS:
        rust, *others = measure(workflows, max(rounds, 2 + 20 // workflows))
        for (arm, _, _), samples in zip(ARMS, (rust, *others), strict=True):
            p99_us = statistics.quantiles(samples, n=100)[98]
            ratios = [one / other for one, other in zip(samples, rust, strict=True)]
            median_us, times_rust = map(statistics.median, (samples, ratios))
            costs.append(Cost(workflows, arm, median_us, p99_us, times_rust))
    Console(width=100).print(table(costs))
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(cost) for cost in costs], indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
