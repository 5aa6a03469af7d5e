"""`kvflow faults`: faults on a real CPU server, and whether its answers stay right meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvflow_agents.errors import KVFlowError

if TYPE_CHECKING:
    from kvflow_faults.suite import Stage

# Room on the device for half of what runs at once and on the host for half of all prompts.
POOL_TOKENS = 2_400
FLAGS = (
    *("--engine", "cpu", "--skip-server-warmup"),
    *("--max-total-tokens", str(POOL_TOKENS)),
)
KVFLOW_FLAGS = ("--host-tier", "--hicache-ratio", "2")

# A group without commands, because `kvflow` adds each as a group; the callback is it.
app = typer.Typer(help=__doc__, add_completion=False, subcommand_metavar="")


@app.callback(invoke_without_command=True, context_settings={"allow_interspersed_args": True})
def faults_command(
    requests: Annotated[int, typer.Option(min=10, help="Over all faults together.")] = 10_000,
    fault: Annotated[list[str] | None, typer.Option(help="Repeatable. Default: all.")] = None,
    soak_s: Annotated[
        float, typer.Option(min=0, help="So long all at once, at the end: hours, if wanted.")
    ] = 60.0,
    seed: int = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the results there.")
    ] = None,
) -> None:
    """Learn a stock server's answers, then ask a kvflow server while faults happen to it.

    Fails unless every answer is right, none is lost but to a killed server, and the server's own
    checks of its slots and tables find nothing.
    """
    from kvflow_faults.faults import FAULTS

    chosen = fault or list(FAULTS)
    if unknown := sorted(set(chosen) - set(FAULTS)):
        raise typer.BadParameter(f"{unknown}: there are {sorted(FAULTS)}", param_hint="--fault")
    finished: list[Stage] = []

    def done(stage: Stage) -> None:
        finished.append(stage)
        _show(stage)
        if json_file is not None:  # after each stage: a run that is cut off leaves what it has
            results = _document(finished, requests, soak_s, seed)
            json_file.write_text(json.dumps(results, indent=1) + "\n")

    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory(prefix="kvflow-faults-") as folder:
        try:
            stages = asyncio.run(
                _run(Path(folder), chosen, requests=requests, soak_s=soak_s, seed=seed, done=done)
            )
        except KVFlowError as error:
            typer.echo(f"kvflow faults: {error}", err=True)
            raise typer.Exit(1) from error
    if not all(stage.is_passed for stage in stages):
        raise typer.Exit(1)


async def _run(
    folder: Path,
    chosen: list[str],
    *,
    requests: int,
    soak_s: float,
    seed: int,
    done: Callable[[Stage], None],
) -> list[Stage]:
    from kvflow_faults import suite
    from kvflow_faults.answers import learn
    from kvflow_faults.victim import Victim
    from kvflow_sglang import model, tiny_model
    from kvflow_sglang.server_process import ServerProcess

    await asyncio.to_thread(model.make, folder / "tiny", tiny_model.write)
    reference = ServerProcess(folder / "tiny", ["--stock", *FLAGS], log=folder / "reference.log")
    typer.echo("A stock server answers every prompt")
    try:
        await asyncio.to_thread(reference.start)
        known = await learn(reference.base_url)
    finally:
        await asyncio.to_thread(reference.stop)
    victim = Victim(folder / "tiny", [*KVFLOW_FLAGS, *FLAGS], folder)
    try:
        await victim.start()
        stages = await suite.run(
            victim, known, chosen, requests=requests, soak_s=soak_s, seed=seed, done=done
        )
    except* KVFlowError as errors:
        await victim.stop()
        said = "; ".join(str(error) for error in errors.exceptions)
        raise KVFlowError("\n".join([said, *victim.log_tails()])) from errors
    finally:
        await victim.stop()
    return stages


def _show(stage: Stage) -> None:
    injected = ", ".join(f"{count} x {name}" for name, count in sorted(stage.injected.items()))
    memory = f"{stage.resident_mib[0]} to {stage.resident_mib[-1]} MiB"
    typer.echo(
        f"{stage.fault}: {stage.answered} answered, {stage.wrong} wrong, {stage.lost} lost, "
        f"{stage.outage} made again after a kill, {stage.deaths} deaths; {stage.seconds:.0f} s, "
        f"median {stage.median_ms:.0f} ms, p99 {stage.p99_ms:.0f} ms; {memory}; {injected}"
    )
    for sample in stage.samples:
        typer.echo(f"  {sample}")
    for name in stage.leftovers:
        typer.echo(f"  too large for a server with nothing to do: {name}")


def _document(stages: list[Stage], requests: int, soak_s: float, seed: int) -> dict[str, Any]:
    from kvflow_faults import suite

    about = {
        "requests": requests,
        "soak_s": soak_s,
        "seed": seed,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "flags": [*KVFLOW_FLAGS, *FLAGS],
    }
    return suite.document(stages, about)
