"""`kvflow bench`: workflow-aware caching against stock SGLang, on a GPU or on the CPU engine."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvflow_agents.errors import ConfigurationError, KVFlowError

if TYPE_CHECKING:
    from kvflow_bench.fleet import Fleet, Launch

PASS_THROUGH = {
    "allow_extra_args": True,
    "allow_interspersed_args": True,
    "ignore_unknown_options": True,
}
SHOWN_DIFFERENCES = 10
DEFAULT_ARMS = ("lru", "hicache", "kvflow", "kvflow-unhinted", "ceiling")

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
    preset: Annotated[str, typer.Option(help="cpu or h100: workloads and pool.")] = "cpu",
    workload: Annotated[
        list[str] | None, typer.Option(help="One of the preset's; repeatable. Default: all.")
    ] = None,
    arm: Annotated[list[str] | None, typer.Option(help="What to compare; repeatable.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Runs of each arm.")] = None,
    model: Model = None,
    engine: EngineName = None,
    server: Server = None,
    json_file: Json = None,
    logs: Logs = None,
    start_together: Together = False,
    pool_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    ceiling_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    slow_link: Annotated[
        float | None, typer.Option(metavar="GB_PER_S", help="Slow the host link down.")
    ] = None,
    kvflow_config: Config = None,
    workflows: Annotated[int | None, typer.Option(help="At once.")] = None,
    agents: Annotated[int | None, typer.Option(help="In each workflow.")] = None,
    branches: Annotated[int | None, typer.Option(help="Of each stage of `branch`.")] = None,
    shared_tokens: Annotated[int | None, typer.Option(help="Of the fixed ones.")] = None,
    fixed_tokens: Annotated[int | None, typer.Option(help="Of each agent's prompt.")] = None,
    dynamic_tokens: Annotated[int | None, typer.Option(help="Of each call.")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Of each call.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Counted rounds.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the prompts.")] = None,
) -> None:
    """Run workloads against every arm, and write each result down as it comes.

    Arms: lru, hicache, kvflow, kvflow-unhinted, kvflow-wrong, kvflow-noprefetch, kvflow-device,
    ceiling (docs/benchmarks.md).
    """
    from kvflow_bench import arms, bench, presets, tables
    from kvflow_bench import slow_link as link
    from kvflow_bench.document import Document
    from kvflow_bench.fleet import Fleet

    sizes = {
        "workflows": workflows,
        "agents": agents,
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
        sides = arms.chosen(arm or DEFAULT_ARMS)
        launch = _launch(
            model,
            engine,
            logs,
            kvflow_config,
            flags or [],
            pool_tokens=pool_tokens or chosen.pool_tokens,
            ceiling_tokens=ceiling_tokens or presets.ceiling_tokens(chosen, workloads),
            host_flags=chosen.host_flags,
        )
        if slow_link is not None:
            load_tokens = max(each.parameters.fixed_tokens for each in workloads)
            launch = link.slowed(launch, slow_link, load_tokens)
        kinds = arms.servers_of(sides)
        with Fleet(kinds, _addresses(server), launch, start_together=start_together) as fleet:
            results = Document(json_file, _session(fleet))
            failed = 0

            def on_run(run: dict[str, Any]) -> None:
                nonlocal failed
                failed += "error" in run
                results.add(run)
                typer.echo(tables.line(run))

            comparison = bench.compare(
                workloads, sides, fleet.urls, repeats=repeats or chosen.repeats, on_run=on_run
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
    from kvflow_bench import presets, race
    from kvflow_bench.fleet import Fleet

    with _errors_of("race"):
        chosen = presets.named(preset, presets.RACES)
        workload = presets.with_requests(chosen.workloads[0], requests)
        launch = _launch(
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
        with Fleet(kinds, _addresses(server), launch, start_together=start_together) as fleet:
            tested, reference = (fleet.urls[kind.name] for kind in kinds)
            verdict = asyncio.run(race.race(tested, reference, workload, twice=twice))
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
) -> None:
    """Make a folder of Llama-3.1-8B's shape without weights, for `--load-format dummy`."""
    from kvflow_bench import shape
    from kvflow_sglang import model

    with _errors_of("shape"):
        made = model.make(folder, shape.write)
    typer.echo(f"{folder}: {'made' if made else 'already there'}")


def _session(fleet: Fleet) -> dict[str, Any]:
    """What a document says of one command, but for its runs."""
    from kvflow_bench import bench, document

    settings = asyncio.run(bench.settings(fleet.urls))
    return {
        "command": shlex.join(["kvflow", *sys.argv[1:]]),
        "started_at": document.now(),
        "environment": document.environment(),
        "servers": {
            name: {"command": fleet.commands.get(name), "url": url, "settings": settings[name]}
            for name, url in fleet.urls.items()
        },
    }


def _launch(
    model: str | None,
    engine: str | None,
    logs: Path | None,
    config: str | None,
    flags: Sequence[str],
    **sizes: Any,
) -> Launch:
    from kvflow_bench import fleet
    from kvflow_sglang import serve

    folder = logs or fleet.new_log_folder()
    runs_on = serve.Engine(engine) if engine else serve.detect_engine()
    if model is None:
        model = str(_make_tiny_model(folder)) if runs_on is serve.Engine.CPU else ""
    return fleet.Launch(
        model=model,
        engine=runs_on.value,
        log_folder=folder,
        flags=flags,
        config=_json_object(config),
        **sizes,
    )


def _make_tiny_model(folder: Path) -> Path:
    from kvflow_sglang import model, tiny_model

    model.make(folder / "tiny", tiny_model.write)
    return folder / "tiny"


def _json_object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise ConfigurationError(f"--kvflow-config is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigurationError(f"--kvflow-config must be a JSON object, not {text}")
    return value


def _addresses(given: Sequence[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in given or ()]
    for name, equals, url in pairs:
        if not equals or not url.startswith(("http://", "https://")):
            raise ConfigurationError(f"--server takes NAME=URL, not {name}{equals}{url}")
    return {name: url for name, _, url in pairs}


@contextmanager
def _errors_of(command: str) -> Iterator[None]:
    try:
        yield
    except KVFlowError as error:
        typer.echo(f"kvflow bench {command}: {error}", err=True)
        raise typer.Exit(2) from None
