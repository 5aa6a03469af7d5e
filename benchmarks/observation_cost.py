"""What receipts, metrics and the shadow of LRU and MIN cost the scheduler's thread, with no GPU.

Run in the server's environment: `.venv-server/bin/python benchmarks/observation_cost.py`.

The same requests as in `scheduler_cost.py` go through two caches in turn, each first every other
time; the difference of each pair counts, in CPU time. Four passes are counted for each request.
What it costs to look at all that on a real server is what `watching_cost.py` measures.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from kvflow_agents.hints import Hint
from kvflow_agents.receipts import Receipts
from kvflow_sglang.metrics import Metrics
from kvflow_sglang.standalone import StandaloneCache
from kvflow_sglang.view import View
from scheduler_cost import AGENTS, PREFIX_TOKENS, TAIL_TOKENS, requests

PASSES = 4


class NoReceipts(Receipts):
    """Keeps nothing."""

    def heard(self, *args: Any, **kwargs: Any) -> None:
        pass

    def arrived(self, *args: Any, **kwargs: Any) -> bool:
        return True


class NoView(View):
    """Sees nothing, so that there is no shadow either, and no guard."""

    def heard(self, *args: Any, **kwargs: Any) -> None:
        pass

    def computed(self, *args: Any, **kwargs: Any) -> None:
        return None


def make(workflows: int, *, observed: bool) -> StandaloneCache:
    pool_tokens = workflows * AGENTS * PREFIX_TOKENS // 4
    made = StandaloneCache("kvflow", pool_tokens=pool_tokens, host_ratio=8.0)
    if observed:
        made.cache.metrics = Metrics(made.cache, {"cache_type": "kvflow"})
    else:
        made.cache.tenants.anonymous.receipts = NoReceipts()
        made.cache.view = NoView(made.cache)
    return made


def cost_us(cache: StandaloneCache, prompt: Iterable[int], hint: Hint) -> float:
    """CPU time of one request."""
    started_ns = time.process_time_ns()
    cache.run(prompt, range(TAIL_TOKENS), hint=hint)
    for _ in range(PASSES):
        cache.one_pass()
        if cache.cache.metrics is not None:
            cache.cache.metrics.step(is_idle=False)
    return (time.process_time_ns() - started_ns) / 1000


def main(
    workflows: Annotated[int, typer.Option(min=1)] = 16,
    rounds: Annotated[int, typer.Option(min=2, help="Of all agents; one is not counted.")] = 6,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Measure paired requests with all of it on, and off."""
    logging.disable(logging.WARNING)
    on, off = make(workflows, observed=True), make(workflows, observed=False)
    pairs = []
    for number, (prompt, hint) in enumerate(requests(workflows, rounds)):
        arms = (on, off) if number % 2 else (off, on)
        costs = {id(arm): cost_us(arm, prompt, hint) for arm in arms}
        pairs.append((costs[id(on)], costs[id(off)]))
    pairs = pairs[workflows * AGENTS :]
    differences = [on_us - off_us for on_us, off_us in pairs]
    figures = {
        "workflows": workflows,
        "pairs": len(pairs),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "off_median_us": statistics.median(off_us for _, off_us in pairs),
        "off_mean_us": statistics.mean(off_us for _, off_us in pairs),
        "difference_median_us": statistics.median(differences),
        "difference_mean_us": statistics.mean(differences),
        "difference_standard_error_us": statistics.stdev(differences) / len(differences) ** 0.5,
    }
    text = json.dumps(figures, indent=1)
    print(text)
    if json_file is not None:
        json_file.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
