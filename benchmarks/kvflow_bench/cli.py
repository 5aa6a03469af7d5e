"""`kvflow bench`: workflow-aware caching against stock SGLang, on a GPU or on the CPU engine."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from kvflow_agents.errors import ConfigurationError, KVFlowError

PASS_THROUGH = {
    "allow_extra_args": True,
    "allow_interspersed_args": True,
    "ignore_unknown_options": True,
}
SHOWN_DIFFERENCES = 10

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

Flags = Annotated[
    list[str] | None, typer.Argument(metavar="SGLANG_FLAGS", help="Of `sglang serve`.")
]
Model = Annotated[str | None, typer.Option(help="The model to serve; tiny on a CPU by default.")]
EngineName = Annotated[
    str | None, typer.Option("--engine", help="cpu or gpu. Default: gpu where there is one.")
]
Server = Annotated[
    list[str] | None,
    typer.Option("--server", metavar="NAME=URL", help="A server that runs already; repeatable."),
]
ServerCommand = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=COMMAND", help="How a given server was started; repeatable."),
]
Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Results of `run`.")]
Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Add the results to this document.")
]
Config = Annotated[
    str | None, typer.Option(metavar="JSON", help="Settings of the plugin, wherever it runs.")
]
Logs = Annotated[Path | None, typer.Option(metavar="DIR", help="Where servers' logs go.")]
Together = Annotated[bool, typer.Option("--start-together", help="Start servers all at once.")]


@app.command("run", context_settings=PASS_THROUGH)
def run_command(
    flags: Flags = None,
    preset: Annotated[
        str,
        typer.Option(help="cpu, h100, slow-link, lora-cpu or lora-h100: workloads and pool."),
    ] = "cpu",
    workload: Annotated[
        list[str] | None, typer.Option(help="One of the preset's; repeatable. Default: all.")
    ] = None,
    arm: Annotated[list[str] | None, typer.Option(help="What to compare; repeatable.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Runs of each arm.")] = None,
    model: Model = None,
    engine: EngineName = None,
    server: Server = None,
    server_command: ServerCommand = None,
    json_file: Json = None,
    logs: Logs = None,
    start_together: Together = False,
    one_at_a_time: Annotated[
        bool,
        typer.Option("--one-at-a-time", help="Stop each server before the next one starts."),
    ] = False,
    pool_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    ceiling_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    slow_link: Annotated[
        float | None, typer.Option(metavar="GB_PER_S", help="Slow the host link down.")
    ] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="For LoRA adapters.")] = None,
    kvflow_config: Config = None,
    workflows: Annotated[int | None, typer.Option(help="At once.")] = None,
    agents: Annotated[int | None, typer.Option(help="In each workflow.")] = None,
    active: Annotated[int | None, typer.Option(help="Of the agents.")] = None,
    adapters: Annotated[int | None, typer.Option(help="LoRA adapters of the agents.")] = None,
    branches: Annotated[int | None, typer.Option(help="Of each stage of `branch`.")] = None,
    shared_tokens: Annotated[int | None, typer.Option(help="Of the fixed ones.")] = None,
    fixed_tokens: Annotated[int | None, typer.Option(help="Of each agent's prompt.")] = None,
    dynamic_tokens: Annotated[int | None, typer.Option(help="Of each call.")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Of each call.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Counted rounds.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the prompts.")] = None,
) -> None:
    """Run workloads against every arm, and write each result down as it comes.

    Arms: lru, lru-overlap, hicache, kvflow, kvflow-unhinted, kvflow-wrong, kvflow-noprefetch,
    kvflow-nogather, kvflow-device, kvflow-overlap, ceiling (docs/benchmarks.md).
    """
    from kvflow_bench import arms, bench, document, options, presets, tables
    from kvflow_bench import slow_link as link
    from kvflow_bench.fleet import Fleet

    sizes = {
        "workflows": workflows,
        "agents": agents,
        "active": active,
        "adapters": adapters,
        "branches": branches,
        "shared_tokens": shared_tokens,
        "fixed_tokens": fixed_tokens,
        "dynamic_tokens": dynamic_tokens,
        "output_tokens": output_tokens,
        "rounds": rounds,
        "seed": seed,
    }
    changes = {name: value for name, value in sizes.items() if value is not None}
    with _errors_of("run"):
        chosen = presets.named(preset)
        workloads = presets.select(chosen, workload or [], changes)
        sides = arms.chosen(arm or chosen.arms)
        launch = options.make_launch(
            model,
            engine,
            logs,
            kvflow_config,
            flags or [],
            pool_tokens=pool_tokens or chosen.pool_tokens,
            ceiling_tokens=ceiling_tokens or presets.ceiling_tokens(chosen, workloads),
            host_flags=chosen.host_flags,
        )
        if count := max(each.parameters.adapters for each in workloads):
            launch = options.with_adapters(launch, count, slots or chosen.slots)
        gb_per_s = slow_link or chosen.link_gb_per_s
        if gb_per_s is not None:
            load_tokens = max(each.parameters.fixed_tokens for each in workloads)
            launch = link.slowed(launch, gb_per_s, load_tokens)
        results = document.Document(json_file, document.new_session(_command_line()))
        failed = 0

        def on_run(run: dict[str, Any]) -> None:
            nonlocal failed
            failed += "error" in run
            results.add(run)
            typer.echo(tables.line(run))

        kinds = arms.servers_of(sides)
        given = options.addresses(server)
        commands = options.commands(server_command, given)
        for group in [[kind] for kind in kinds] if one_at_a_time else [kinds]:
            with Fleet(
                group, given, launch, commands=commands, start_together=start_together
            ) as fleet:
                if launch.adapters is not None:
                    asyncio.run(bench.load_adapters(fleet, group, launch.adapters))
                results.add_servers(asyncio.run(bench.servers_of(fleet)))
                comparison = bench.compare(
                    workloads,
                    [side for side in sides if side.server in fleet.urls],
                    fleet.urls,
                    repeats=repeats or chosen.repeats,
                    on_run=on_run,
                )
                asyncio.run(comparison)
    tables.show([results.session])
    raise typer.Exit(1 if failed else 0)


@app.command("race", context_settings=PASS_THROUGH)
def race_command(
    flags: Flags = None,
    preset: Annotated[str, typer.Option(help="cpu or h100: agents and pool.")] = "cpu",
    requests: Annotated[int, typer.Option(min=1, help="How many to compare.")] = 2000,
    model: Model = None,
    engine: EngineName = None,
    server: Server = None,
    server_command: ServerCommand = None,
    json_file: Json = None,
    logs: Logs = None,
    start_together: Together = False,
    pool_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    kvflow_config: Config = None,
    twice: Annotated[
        bool, typer.Option("--twice", help="Compare the reference with itself, too.")
    ] = False,
) -> None:
    """Compare answers of a server that loads ahead (`with`) with one that does not (`without`).

    Ends with 1 if any differs, or if nothing was loaded ahead.
    """
    from kvflow_bench import bench, document, instruments, options, presets, race
    from kvflow_bench.fleet import Fleet

    with _errors_of("race"):
        chosen = presets.named(preset, presets.RACES)
        workload = presets.with_requests(chosen.workloads[0], requests)
        launch = options.make_launch(
            model,
            engine,
            logs,
            kvflow_config,
            flags or [],
            pool_tokens=pool_tokens or chosen.pool_tokens,
            ceiling_tokens=chosen.pool_tokens,
            host_flags=chosen.host_flags,
        )
        kinds = [race.PREFETCHING, race.REFERENCE]
        given = options.addresses(server)
        commands = options.commands(server_command, given)
        results = document.Document(json_file, document.new_session(_command_line()))
        with Fleet(kinds, given, launch, commands=commands, start_together=start_together) as fleet:
            results.add_servers(asyncio.run(bench.servers_of(fleet)))
            tested, reference = (fleet.urls[kind.name] for kind in kinds)
            verdict = asyncio.run(race.race(tested, reference, workload, twice=twice))
        results.add_race(verdict.entry(instruments.switches()))
    typer.echo(
        f"{verdict.requests:,} requests, {verdict.early_tokens:,} tokens loaded ahead: "
        f"{len(verdict.differences):,} answers differ"
    )
    for difference in verdict.differences[:SHOWN_DIFFERENCES]:
        typer.echo(f"  request {difference.request} from token {difference.token} on")
    if verdict.own_differences is not None:
        typer.echo(f"the reference differs from itself in {len(verdict.own_differences):,}")
    if not verdict.early_tokens:
        typer.echo("nothing was loaded ahead, so nothing was tested", err=True)
    raise typer.Exit(0 if verdict.is_passed else 1)


@app.command("report")
def report_command(files: Files) -> None:
    """Print the results of one or more documents as tables."""
    from kvflow_bench import document, tables

    with _errors_of("report"):
        tables.show(document.load(files))


@app.command("plot")
def plot_command(
    files: Files,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the pictures go.")],
    suffix: Annotated[str, typer.Option("--format", help="svg or png.")] = "svg",
) -> None:
    """Draw latency ratios, times to first token and tokens by source."""
    from kvflow_bench import document

    with _errors_of("plot"):
        sessions = document.load(files)
        if suffix not in ("svg", "png"):
            raise ConfigurationError(f"--format is svg or png, not {suffix}")
        try:
            from kvflow_bench import plots
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"{error.name} is missing: pip install 'kvflow-agents[bench]'"
            ) from error
        for path in plots.write(sessions, out, suffix):
            typer.echo(path)


@app.command("shape")
def shape_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the model folder goes.")],
    adapters: Annotated[
        int, typer.Option(min=0, help="LoRA adapters to DIR/adapters/0 and on, of the same bytes.")
    ] = 0,
    rank: Annotated[int, typer.Option(min=1, help="Of the adapters.")] = 64,
    like: Annotated[
        str, typer.Option(help="llama-3.1-8b or qwen2.5-32b: whose shape it is.")
    ] = "llama-3.1-8b",
) -> None:
    """Make a folder of a real model's shape without weights, for `--load-format dummy`."""
    from kvflow_bench import shape
    from kvflow_sglang import model, tiny_lora

    with _errors_of("shape"):
        shaped = shape.named(like)
        made = model.make(folder, partial(shape.write, shape=shaped))
        first = folder / model.ADAPTERS / "0"
        for number in range(adapters):
            write = partial(shape.link_adapter, like=first)
            if number == 0:
                write = partial(shape.write_adapter, shape=shaped, rank=rank)
            model.make(first.with_name(str(number)), write, config=tiny_lora.CONFIG)
    typer.echo(f"{folder}: {'made' if made else 'already there'}")


def _command_line() -> str:
    return shlex.join(["kvflow", *sys.argv[1:]])


@contextmanager
def _errors_of(command: str) -> Iterator[None]:
    # Ends like an error does, so that no server is left behind.
    before = signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        yield
    except KVFlowError as error:
        typer.echo(f"kvflow bench {command}: {error}", err=True)
        raise typer.Exit(2) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit_on_signal(number: int, frame: object) -> None:
    sys.exit(128 + number)
