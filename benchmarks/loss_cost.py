"""Would it matter what losing KV costs? How often a choice is between a load and a recomputation.

    python benchmarks/loss_cost.py [--preset cpu] [--host-pools 1.5] [--json FILE]

KV that the host has too comes back by a load, other KV has to be computed again. An order that
weighs the two can decide otherwise only where a leaf that the host lacks, and that is not spent,
stands beside one that it has. This counts such evictions on simulated workloads with a host tier.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from kvflow_agents.eviction import Preference, Standing
from kvflow_bench import presets
from kvflow_bench.workloads import Workload
from kvflow_simulate import machine as machines
from kvflow_simulate.forecasts import HINTS, Hints, named
from kvflow_simulate.foretold import Foretold
from kvflow_simulate.machine import Machine
from kvflow_simulate.sides import Side
from kvflow_simulate.simulate import Sizes, simulate
from kvflow_simulate.tree import Node, PrefixTree


class Watched(Foretold):
    """kvflow's order; counts what it could choose from at each eviction from the device."""

    def __init__(self, tree: PrefixTree, counts: Counter[str]) -> None:
        super().__init__(tree)
        self._counts = counts

    def preference(self, *, on_host: bool) -> Preference:
        if not on_host:
            self._look()
        return super().preference(on_host=on_host)

    def _look(self) -> None:
        leaves = [node for node in self.tree.device_leaves if not self._is_spent(node)]
        lacking = sum(not node.on_host for node in leaves)
        self._counts["evictions"] += 1
        self._counts["with a leaf that the host lacks"] += lacking > 0
        self._counts["with leaves of both kinds"] += 0 < lacking < len(leaves)
        self._counts["leaves"] += len(leaves)
        self._counts["leaves that the host lacks"] += lacking

    def _is_spent(self, node: Node) -> bool:
        return self.ledger.standing(node)[0] is Standing.SPENT


def measure(
    workload: Workload, machine: Machine, pool_tokens: int, host_pools: float, hints: Hints
) -> dict[str, object]:
    """One workload under kvflow's order, with prefetch."""
    counts: Counter[str] = Counter()
    side = Side("ours", lambda tree, _: Watched(tree, counts), has_host_tier=True, is_hinted=True)
    sizes = Sizes(pool_tokens, int(host_pools * pool_tokens))
    simulate(workload, side, machine, sizes, hints=hints)
    about = {"workload": workload.name, "host_pools": host_pools, "hints": hints}
    return {**about, **{name: counts[name] for name in COUNTS}}


COUNTS = (
    "evictions",
    "with a leaf that the host lacks",
    "with leaves of both kinds",
    "leaves",
    "leaves that the host lacks",
)


def main(
    preset: Annotated[str, typer.Option(help="cpu or h100.")] = "cpu",
    machine: Annotated[str, typer.Option(help="How fast it is.")] = "cpu-tiny",
    host_pools: Annotated[list[float] | None, typer.Option(help="Default: 1.5 and 4.")] = None,
    hints: Annotated[list[str] | None, typer.Option(help="Default: exact and learned.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Count the evictions in which a load competes with a recomputation."""
    chosen, speed = presets.named(preset), machines.named(machine)
    workloads = presets.select(chosen, [], {})
    runs = [
        (workload, pools, named(said))
        for workload in workloads
        for pools in host_pools or (1.5, 4.0)
        for said in hints or HINTS[:2]
    ]
    rows = [measure(w, speed, chosen.pool_tokens, pools, said) for w, pools, said in track(runs)]
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=150).print(table)
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
