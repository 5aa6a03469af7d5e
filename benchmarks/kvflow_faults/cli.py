"""`kvflow faults`: faults on a real CPU server, and whether its answers stay right meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvflow_agents.errors import KVFlowError

if TYPE_CHECKING:
    from kvflow_faults.stage import Stage

# Room on the device for half of what runs at once, and on the host for most of all prompts.
POOL_TOKENS = 2_400
FLAGS = (
    *("--engine", "cpu", "--skip-server-warmup"),
    *("--max-total-tokens", str(POOL_TOKENS)),
    *("--host-tier", "--hicache-ratio", "2"),
)

STOCK, KVFLOW = "stock", "kvflow"

# A group without commands, because `kvflow` adds each as a group; the callback is it.
app = typer.Typer(help=__doc__, add_completion=False, subcommand_metavar="")


@app.callback(invoke_without_command=True, context_settings={"allow_interspersed_args": True})
def faults_command(
    requests: Annotated[int, typer.Option(min=10, help="Over all faults together.")] = 10_000,
    fault: Annotated[list[str] | None, typer.Option(help="Repeatable. Default: all.")] = None,
    soak_s: Annotated[
        float, typer.Option(min=0, help="So long all at once, at the end: hours, if wanted.")
    ] = 60.0,
    control: Annotated[
        bool, typer.Option(help="The same faults happen to a stock server first.")
    ] = True,
    seed: int = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the results there.")
    ] = None,
) -> None:
    """Learn a stock server's answers, then ask it and a kvflow server while faults happen to them.

    Fails unless every answer of kvflow's is right, none is lost that the stock server does not
    lose, its own checks of its slots and tables find nothing, and nothing grows in the soak.
    """
    from kvflow_faults.faults import FAULTS
    from kvflow_faults.results import Results

    chosen = fault or list(FAULTS)
    if unknown := sorted(set(chosen) - set(FAULTS)):
        raise typer.BadParameter(f"{unknown}: there are {sorted(FAULTS)}", param_hint="--fault")
    results = Results()

    def done(server: str, stage: Stage) -> None:
        (results.control if server == STOCK else results.stages).append(stage)
        _show(server, stage)
        if json_file is not None:  # after each stage: a run that is cut off leaves what it has
            about = _about(requests, soak_s, seed)
            json_file.write_text(json.dumps(results.document(about), indent=1) + "\n")

    with tempfile.TemporaryDirectory(prefix="kvflow-faults-") as folder:
        try:
            asyncio.run(_run(Path(folder), chosen, requests, soak_s, seed, control, done))
        except KVFlowError as error:
            typer.echo(f"kvflow faults: {error}", err=True)
            raise typer.Exit(1) from error
        except asyncio.CancelledError as error:
            raise typer.Exit(128 + signal.SIGTERM) from error
    harms = results.harms()
    for harm in harms:
        typer.echo(f"failed: {harm}")
    raise typer.Exit(1 if harms else 0)


async def _run(
    folder: Path,
    chosen: list[str],
    requests: int,
    soak_s: float,
    seed: int,
    control: bool,
    done: Callable[[str, Stage], None],
) -> None:
    from kvflow_faults import suite
    from kvflow_faults.answers import learn
    from kvflow_faults.victim import Victim
    from kvflow_sglang import model, tiny_model

    running = asyncio.current_task()
    assert running is not None, "this runs in a task"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    await asyncio.to_thread(model.make, folder / "tiny", tiny_model.write)
    run = partial(suite.run, chosen=chosen, requests=requests, seed=seed)
    async with Victim(folder / "tiny", ["--stock", *FLAGS], folder / "stock") as stock:
        typer.echo("A stock server answers every prompt")
        await stock.live()
        known = await learn(stock.base_url)
        if control:
            await run(stock, known, done=partial(done, STOCK))
    async with Victim(folder / "tiny", FLAGS, folder / "kvflow") as victim:
        await run(victim, known, done=partial(done, KVFLOW))
        if soak_s:
            done(KVFLOW, await suite.soak(victim, known, seconds=soak_s, seed=seed))


def _show(server: str, stage: Stage) -> None:
    injected = ", ".join(f"{count} x {name}" for name, count in sorted(stage.injected.items()))
    memory = ", ".join(
        f"{name} {mib[0]} to {mib[-1]} MiB" for name, mib in stage.resident_mib.items() if mib
    )
    typer.echo(
        f"{server}, {stage.fault}: {stage.answered} answered, {stage.wrong} wrong, "
        f"{stage.lost} lost, {stage.outage} made again after a kill, {stage.deaths} deaths; "
        f"{stage.seconds:.0f} s, median {stage.median_ms:.0f} ms, p99 {stage.p99_ms:.0f} ms; "
        f"{stage.loaded_ahead_tokens} tokens loaded ahead; "
        f"{memory}; {injected}"
    )
    if stage.filling:
        typer.echo(f"  too short to say what grows: {', '.join(stage.filling)} still filled")
    for sample in stage.samples:
        typer.echo(f"  {sample}")


def _about(requests: int, soak_s: float, seed: int) -> dict[str, Any]:
    return {
        "requests": requests,
        "soak_s": soak_s,
        "seed": seed,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "flags": FLAGS,
    }
