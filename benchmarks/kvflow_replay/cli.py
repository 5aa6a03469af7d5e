"""`kvflow replay`: recorded traffic under other policies; no GPU, no server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvflow_agents.errors import ConfigurationError, KVFlowError

if TYPE_CHECKING:
    from rich.console import Console

    from kvflow_replay.answers import LiveReplay
    from kvflow_replay.calls import Event
    from kvflow_replay.timed import TimedReplay, Timetable
    from kvflow_simulate.machine import Machine
    from kvflow_simulate.sides import Side
    from kvflow_simulate.simulate import Sizes

# A group without commands, because `kvflow` adds each as a group; the callback is it.
app = typer.Typer(help=__doc__, add_completion=False, subcommand_metavar="")


@app.callback(invoke_without_command=True, context_settings={"allow_interspersed_args": True})
def replay_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, help="JSON lines: ours or Mooncake's."
        ),
    ],
    policy: Annotated[list[str] | None, typer.Option(help="Repeatable. Default: all.")] = None,
    pool_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="On the device. Default: 0.4 of what is wanted again."),
    ] = None,
    host_tokens: Annotated[
        int | None, typer.Option(min=1, help="On the host. Default: twice the pool.")
    ] = None,
    block_tokens: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Of Mooncake traces.")
    ] = 512,
    calls: Annotated[int | None, typer.Option(min=1, help="Only the file's first ones.")] = None,
    windows: Annotated[
        int, typer.Option(min=1, max=1000, help="To look at apart, without time.")
    ] = 20,
    machine: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Replay with time, on a simulated h100-8b or cpu-tiny."),
    ] = None,
    link_gb_per_s: Annotated[float | None, typer.Option(help="The machine's host link.")] = None,
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Make the calls of an SGLang server instead."),
    ] = None,
    hints: Annotated[
        bool, typer.Option(help="Send forecasts to the server or the machine.")
    ] = True,
    speed: Annotated[
        float,
        typer.Option(min=0.001, help="How much faster than it was, on the server or the machine."),
    ] = 1.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the results there.")
    ] = None,
) -> None:
    """Compare policies on a trace: lru, ours-device and optimum-device in the pool alone; hicache,
    papers, ours and optimum with a host tier besides; on a machine those of `kvflow simulate`."""
    from rich.console import Console
    from rich.progress import Progress

    from kvflow_replay import replay as replays
    from kvflow_replay import tables
    from kvflow_replay.calls import Call
    from kvflow_replay.document import document, live_document, timed_document
    from kvflow_replay.reader import Reader
    from kvflow_replay.timed import Timetable, pools_for
    from kvflow_simulate.sides import chosen

    console = Console(stderr=True)
    try:
        simulated = _machine(machine, link_gb_per_s, server)
        sides = chosen(policy or list(replays.DEFAULT_POLICIES))
        with file.open("rb") as lines, console.status("reading"):
            reader = Reader(lines, block_tokens=block_tokens)
            events = replays.in_order(replays.first(reader, calls))
            made = [event for event in events if isinstance(event, Call)]
        for complaint in tables.complaints(reader.findings):
            typer.echo(complaint, err=True)
        block = reader.findings.block_tokens
        if block is None:
            raise ConfigurationError(f"{file.name} holds no call")
        if server is not None:
            live = _replay_live(console, events, server, block, is_hinted=hints, speed=speed)
            tables.show_live(live, reader.findings)
            if json_file is not None:
                _write(json_file, live_document(live, reader.findings))
            raise typer.Exit(1 if live.failed == live.calls else 0)
        if simulated is not None:
            trace = Timetable(events, block, speed=speed, is_hinted=hints)
            pools = pools_for(made, block, pool_tokens, host_tokens)
            timed = _replay_timed(console, trace, sides, simulated, pools)
            tables.show_timed(timed, reader.findings)
            if json_file is not None:
                _write(json_file, timed_document(timed, reader.findings))
            return
        sizes = replays.sizes_for(made, block, pool_tokens, host_tokens)
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("replaying", total=len(made))
            done = replays.replay(
                events,
                [side.name for side in sides],
                sizes,
                windows=windows,
                progress=lambda: progress.advance(task),
            )
    except (KVFlowError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    tables.show(done, reader.findings)
    if json_file is not None:
        _write(json_file, document(done, reader.findings))


def _replay_live(
    console: Console,
    events: list[Event],
    server: str,
    block_tokens: int,
    *,
    is_hinted: bool,
    speed: float,
) -> LiveReplay:
    from rich.progress import Progress

    try:
        from kvflow_replay.live import replay_live
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"--server needs {error.name}: pip install 'kvflow-agents[bench]'"
        ) from error
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("replaying", total=len(events))
        return asyncio.run(
            replay_live(
                events,
                server,
                block_tokens,
                is_hinted=is_hinted,
                speed=speed,
                progress=lambda: progress.advance(task),
            )
        )


def _replay_timed(
    console: Console, trace: Timetable, sides: list[Side], machine: Machine, sizes: Sizes
) -> TimedReplay:
    from rich.progress import Progress

    from kvflow_replay.timed import replay_timed

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("replaying", total=len(trace.calls) * (1 + len(sides)))
        return replay_timed(trace, sides, machine, sizes, progress=lambda: progress.advance(task))


def _machine(name: str | None, link_gb_per_s: float | None, server: str | None) -> Machine | None:
    """The machine to simulate, if any."""
    from kvflow_simulate import machine as machines

    if name is None:
        if link_gb_per_s is not None:
            raise ConfigurationError("--link-gb-per-s needs --machine")
        return None
    if server is not None:
        raise ConfigurationError("a trace goes to a --server or to a --machine, not to both")
    return machines.named(name, link_gb_per_s=link_gb_per_s)


def _write(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
