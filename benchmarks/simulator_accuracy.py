"""The simulator against real servers on the CPU engine: their hit tokens, their order of policies?

    python benchmarks/simulator_accuracy.py [--host-ratio 1.5] [--repeats 2] [--json FILE]

Every workload of `WORKLOADS` is run by `kvflow simulate`'s engine and, through `kvflow bench`'s
client, by a server of each policy, one server at a time. Hit tokens are those of counted calls that
were found on the device or on the host. `--measured FILE` takes what servers did from there.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kvflow_bench.arms import SERVERS, Hints, ServerKind
from kvflow_bench.bench import prime
from kvflow_bench.client import Client
from kvflow_bench.fleet import Launch
from kvflow_bench.protocol import run
from kvflow_bench.workloads import Parameters, Workload
from kvflow_simulate.machine import MACHINES
from kvflow_simulate.sides import SIDES
from kvflow_simulate.simulate import Sizes, simulate

POOL_TOKENS = 3_100
CLOSE = 0.02
MACHINE = MACHINES["cpu-tiny"]

# A hundred calls each: one prompt is less than the 2% in question.
SIZES = Parameters(fixed_tokens=600, dynamic_tokens=20, output_tokens=4, rounds=10)
WORKLOADS = (
    Workload("single", "cycle", SIZES),
    Workload("shared", "cycle", replace(SIZES, shared_tokens=200)),
    Workload("concurrent", "cycle", replace(SIZES, workflows=3, agents=5, fixed_tokens=400)),
    Workload("peer", "peer", replace(SIZES, workflows=2, agents=3, fixed_tokens=400)),
    Workload("branch", "branch", replace(SIZES, agents=5, shared_tokens=300, rounds=20)),
    Workload("growing", "growing", replace(SIZES, agents=8, fixed_tokens=300, dynamic_tokens=40)),
    Workload("simulation", "simulation", replace(SIZES, agents=12)),
    Workload("simulations", "simulation", replace(SIZES, workflows=2, agents=6, active=1)),
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A policy of the simulator, and the server that has it."""

    policy: str
    server: ServerKind
    hints: Hints = Hints.EXACT


PAIRS = (
    Pair("lru", SERVERS["lru"], Hints.NONE),
    Pair("hicache", SERVERS["hicache"], Hints.NONE),
    Pair("ours-by-steps", replace(SERVERS["kvflow"], config={"order": "steps"})),
    Pair("ours-device", SERVERS["kvflow-device"]),
    Pair("ours-noprefetch", SERVERS["kvflow-noprefetch"]),
    Pair("ours", SERVERS["kvflow"]),
)


def simulated(workload: Workload, policy: str, host_ratio: float) -> dict[str, Any]:
    """Hit tokens and mean latency of the simulated engine."""
    sizes = Sizes(POOL_TOKENS, int(host_ratio * POOL_TOKENS))
    outcome = simulate(workload, SIDES[policy], MACHINE, sizes)
    found = ("kept_tokens", "prefetched_tokens", "loaded_tokens")
    return {
        "simulated_tokens": sum(outcome.total(each) for each in found),
        "simulated_latency_ms": 1000 * statistics.fmean(call.latency_s for call in outcome.served),
    }


async def measured(base_url: str, pair: Pair, workload: Workload, name: str) -> dict[str, Any]:
    """The same of a server, and how many tokens its prompts have."""
    async with Client(base_url) as client:
        done = await run(client, workload, pair.hints, name=name)
    return {
        "prompt_tokens": sum(answer.prompt_tokens for answer in done.answers),
        "measured_tokens": sum(answer.cached_tokens for answer in done.answers),
        "measured_latency_ms": 1000 * statistics.fmean(each.latency_s for each in done.answers),
    }


def serve(
    pair: Pair, workloads: Sequence[Workload], model: str, host_ratio: float, repeats: int
) -> Iterator[dict[str, Any]]:
    """Start a policy's server and run all workloads on it, over and over."""
    with tempfile.TemporaryDirectory() as folder:
        launch = Launch(
            model,
            "cpu",
            pool_tokens=POOL_TOKENS,
            ceiling_tokens=POOL_TOKENS,
            log_folder=Path(folder),
            host_flags=("--hicache-ratio", str(host_ratio)),
        )
        with launch.process(pair.server) as server:
            asyncio.run(_prime(server.base_url, workloads[0]))
            for repeat in range(repeats):
                for workload in workloads:
                    name = f"{workload.name}/{repeat}"
                    figures = asyncio.run(measured(server.base_url, pair, workload, name))
                    yield {"workload": workload.name, "policy": pair.policy, **figures}


async def _prime(base_url: str, workload: Workload) -> None:
    async with Client(base_url) as client:
        await prime(client, workload)


def compared(row: Mapping[str, Any], host_ratio: float) -> dict[str, Any]:
    """One run of a server beside the simulated one."""
    workload = next(each for each in WORKLOADS if each.name == row["workload"])
    both = {**row, **simulated(workload, row["policy"], host_ratio)}
    found, expected = both["measured_tokens"], both["simulated_tokens"]
    # Where a server finds nothing a simulator that finds nothing is right.
    return both | {"ratio": expected / found if found else float(expected == 0)}


def reversals(rows: Sequence[Mapping[str, Any]], workload: str) -> list[tuple[str, str]]:
    """Pairs of policies, over 2% of the prompts apart on servers, that the simulator reverses."""
    means: dict[str, tuple[float, float, float]] = {}
    for policy in dict.fromkeys(row["policy"] for row in rows):
        found = [r for r in rows if r["workload"] == workload and r["policy"] == policy]
        means[policy] = (
            statistics.fmean(row["measured_tokens"] for row in found),
            statistics.fmean(row["simulated_tokens"] for row in found),
            found[0]["prompt_tokens"],
        )
    return [
        (one, other)
        for one, (real, model, prompt) in means.items()
        for other, (other_real, other_model, _) in means.items()
        if real - other_real > CLOSE * prompt and model <= other_model
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    made = Table("workload", *policies, "reversed", title="Hit tokens, simulated / measured")
    for workload in dict.fromkeys(row["workload"] for row in rows):
        cells = []
        for policy in policies:
            found = [r for r in rows if r["workload"] == workload and r["policy"] == policy]
            share = statistics.fmean(r["measured_tokens"] / r["prompt_tokens"] for r in found)
            ratios = ", ".join(f"{row['ratio']:.3f}" for row in found)
            cells.append(f"{ratios} ({share:.2f})")
        turned = "; ".join(f"{one} > {other}" for one, other in reversals(rows, workload))
        made.add_row(workload, *cells, turned or "none")
    return made


def main(
    model: Annotated[str, typer.Option(help="Folder of `kvflow model tiny`.")] = ".models/tiny",
    policy: Annotated[list[str] | None, typer.Option(help="Repeatable; default: all.")] = None,
    workload: Annotated[list[str] | None, typer.Option(help="Repeatable; default: all.")] = None,
    host_ratio: Annotated[float, typer.Option(help="Host tier over the device pool.")] = 1.5,
    repeats: Annotated[int, typer.Option(min=1)] = 2,
    measured_file: Annotated[
        Path | None, typer.Option("--measured", help="Start no server: these results again.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Compare simulated and measured hit tokens."""
    found: Iterator[dict[str, Any]]
    if measured_file is not None:
        document = json.loads(measured_file.read_text(encoding="utf-8"))
        host_ratio, found = document["host_ratio"], iter(document["runs"])
    else:
        workloads = [each for each in WORKLOADS if not workload or each.name in workload]
        pairs = [pair for pair in PAIRS if not policy or pair.policy in policy]
        found = (
            row for pair in pairs for row in serve(pair, workloads, model, host_ratio, repeats)
        )
    rows = []
    for each in found:
        rows.append(compared(each, host_ratio))
        print(f"{each['policy']}, {each['workload']}: {rows[-1]['ratio']:.3f}", flush=True)
    Console(width=180).print(table(rows))
    if json_file is not None:
        document = {"pool_tokens": POOL_TOKENS, "host_ratio": host_ratio, "runs": rows}
        json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
