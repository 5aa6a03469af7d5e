"""`kvflow serve`: start stock SGLang with kvflow's flags; every other flag passes through."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Annotated

import typer

from kvflow_agents.errors import ConfigurationError
from kvflow_sglang import cpu_engine
from kvflow_sglang.compat import transport

PLUGIN = "kvflow"
CPU_PLUGIN = "kvflow_cpu"
# SGLang loads every installed plugin unless at least one name is listed.
NO_PLUGIN = "none"
RANK_FLAGS = (
    ("--tp", "--tp-size", "--tensor-parallel-size"),
    ("--dp", "--dp-size", "--data-parallel-size"),
)
PASS_THROUGH = {
    "allow_extra_args": True,
    "allow_interspersed_args": True,
    "ignore_unknown_options": True,
}


class Engine(StrEnum):
    """Where the model runs."""

    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """A process to become: its arguments, and what to add to its environment."""

    argv: tuple[str, ...]
    env: dict[str, str]


def command(
    model: str,
    flags: Sequence[str] = (),
    *,
    engine: Engine,
    stock: bool = False,
    host_tier: bool = False,
    config: str | None = None,
    env: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> ServerCommand:
    """The command that serves `model`; a flag among `flags` replaces kvflow's own choice.

    `stock` leaves kvflow out and changes nothing else. Raises `ConfigurationError` when `config`
    is not a JSON object.
    """
    env = env or {}
    # Spares the look-up, for some models over the network, whether it is a diffusion model.
    ours: cpu_engine.Flags = {"--model-type": "llm"}
    variables = {"SGLANG_PLUGINS": _plugins(env, engine, stock)}
    if engine is Engine.CPU:
        ours |= cpu_engine.flags(host_tier=host_tier)
        variables |= cpu_engine.environment(env, ranks=_ranks(flags))
    if host_tier:
        ours |= {"--enable-hierarchical-cache": None, "--hicache-write-policy": "write_through"}
    ours["--enable-cache-report"] = None
    if not stock:
        ours["--radix-cache-backend"] = PLUGIN
        if transport.VARIABLE not in env:
            variables |= transport.MSGPACK
        if config is not None:
            variables["KVFLOW_CONFIG"] = _json_object(config)
    if Path(model).is_dir():
        # Nothing is missing; without this the tokenizer asks the hub all the same.
        variables |= {"HF_HUB_OFFLINE": "1"}
    argv = [python, str(Path(python).with_name("sglang")), "serve", "--model-path", model]
    return ServerCommand((*argv, *_without_given(ours, flags), *flags), variables)


def _plugins(env: Mapping[str, str], engine: Engine, stock: bool) -> str:
    """The plugins to load: those already asked for, and ours."""
    listed = [name.strip() for name in env.get("SGLANG_PLUGINS", "").split(",")]
    names = [name for name in listed if name and name not in (PLUGIN, CPU_PLUGIN)]
    if not stock:
        names.append(PLUGIN)
    if engine is Engine.CPU:
        names.append(CPU_PLUGIN)
    return ",".join(names or [NO_PLUGIN])


def _ranks(flags: Sequence[str]) -> int:
    """How many schedulers are asked for; what SGLang will refuse counts as one."""
    words = [word for flag in flags for word in flag.split("=", 1)]
    return prod(_size(words, names) for names in RANK_FLAGS)


def _size(words: Sequence[str], names: Sequence[str]) -> int:
    sizes = [size for flag, size in pairwise(words) if flag in names and size.isdecimal()]
    return max(int(sizes[-1]), 1) if sizes else 1


def _without_given(ours: cpu_engine.Flags, flags: Sequence[str]) -> list[str]:
    given = {flag.split("=", 1)[0] for flag in flags}
    chosen = {flag: value for flag, value in ours.items() if flag not in given}
    return [part for pair in chosen.items() for part in pair if part is not None]


def _json_object(text: str) -> str:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"--kvflow-config is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigurationError(f"--kvflow-config must be a JSON object, not {text}")
    return json.dumps(value)


def detect_engine() -> Engine:
    """GPU where a driver shows one; importing torch to ask would take seconds."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Engine.CPU
    found = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()
    return Engine.GPU if found or shutil.which("nvidia-smi") else Engine.CPU


def require_sglang() -> None:
    """Raise `ConfigurationError` unless SGLang is installed beside this package."""
    if importlib.util.find_spec("sglang") is None:
        raise ConfigurationError(
            "SGLang is not installed in this environment; it needs one of its own: "
            "python3 -m venv .venv-server && .venv-server/bin/pip install 'kvflow-agents[server]'"
        )


# A group without commands, because `kvflow` adds each app as a group; the callback is the command.
app = typer.Typer(add_completion=False, subcommand_metavar="")


@app.callback(invoke_without_command=True, context_settings=PASS_THROUGH)
def serve(
    model: Annotated[str, typer.Argument(help="Model folder, or its name on the hub.")],
    flags: Annotated[
        list[str] | None,
        typer.Argument(metavar="SGLANG_FLAGS", help="Any flag of `sglang serve`."),
    ] = None,
    stock: Annotated[
        bool, typer.Option("--stock", help="The same server without kvflow, to compare.")
    ] = False,
    host_tier: Annotated[bool, typer.Option(help="Keep evicted KV in CPU memory.")] = False,
    engine: Annotated[
        Engine | None, typer.Option(help="Default: gpu where there is one, else cpu.")
    ] = None,
    kvflow_config: Annotated[
        str | None, typer.Option(metavar="JSON", help="Settings of the plugin.")
    ] = None,
) -> None:
    """Serve MODEL with SGLang and workflow-aware caching.

    kvflow's flags come first and yours win: see `sglang serve --help` for all of them.
    """
    try:
        require_sglang()
        become = command(
            model,
            flags or [],
            engine=engine or detect_engine(),
            stock=stock,
            host_tier=host_tier,
            config=kvflow_config,
            env=os.environ,
        )
    except ConfigurationError as error:
        typer.echo(f"kvflow serve: {error}", err=True)
        raise typer.Exit(2) from None
    # Become the server, so that signals and the exit status are its own.
    os.execve(become.argv[0], become.argv, {**os.environ, **become.env})
