"""`kvflow simulate`: the policies on a simulated engine; no GPU, no server."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kvflow_agents.errors import KVFlowError

app = typer.Typer(help=__doc__, add_completion=False)


@app.callback(invoke_without_command=True)
def simulate_command(
    preset: Annotated[str, typer.Option(help="cpu, h100, lora-cpu or lora-h100.")] = "h100",
    workload: Annotated[
        list[str] | None, typer.Option(help="One of the preset's; repeatable. Default: all.")
    ] = None,
    policy: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    hints: Annotated[
        str, typer.Option(help="exact, learned, absent, shuffled or reversed.")
    ] = "exact",
    machine: Annotated[str, typer.Option(help="How fast it is.")] = "h100-8b",
    link_gb_per_s: Annotated[float | None, typer.Option(help="Host link.")] = None,
    pool_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    host_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="For LoRA adapters.")] = None,
    workflows: Annotated[int | None, typer.Option(help="At once.")] = None,
    agents: Annotated[int | None, typer.Option(help="In each workflow.")] = None,
    fixed_tokens: Annotated[int | None, typer.Option(help="Of each agent's prompt.")] = None,
    dynamic_tokens: Annotated[int | None, typer.Option(help="Of each call.")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Of each call.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Counted rounds.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the results there.")
    ] = None,
) -> None:
    """Compare policies: lru, lru-overlap, hicache, papers, ours, ours-device, ours-noprefetch,
    optimum and optimum-device; the ceiling, where everything fits, is always run."""
    from kvflow_bench import presets
    from kvflow_simulate import forecasts, sides, simulate, tables
    from kvflow_simulate import machine as machines

    sizes = {
        "workflows": workflows,
        "agents": agents,
        "fixed_tokens": fixed_tokens,
        "dynamic_tokens": dynamic_tokens,
        "output_tokens": output_tokens,
        "rounds": rounds,
    }
    try:
        chosen = presets.named(preset)
        changes = {name: value for name, value in sizes.items() if value is not None}
        workloads = presets.select(chosen, workload or [], changes)
        speed = machines.named(machine, link_gb_per_s=link_gb_per_s or chosen.link_gb_per_s)
        pool = pool_tokens or chosen.pool_tokens
        host = host_tokens or simulate.host_tokens(chosen, speed, pool)
        pools = simulate.Sizes(pool, host, slots or chosen.slots)
        compared = sides.chosen(policy or list(simulate.policies_for(workloads)))
        said = forecasts.named(hints)
        outcomes = simulate.compare(workloads, compared, speed, pools, hints=said)
    except KVFlowError as error:
        raise typer.BadParameter(str(error)) from error
    rows = simulate.with_ratios([simulate.figures(outcome) for outcome in outcomes])
    tables.show(rows)
    if json_file is not None:
        document = {
            "machine": asdict(speed),
            "sizes": asdict(pools),
            "hints": said,
            "results": rows,
        }
        json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
