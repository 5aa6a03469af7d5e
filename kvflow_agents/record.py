"""`kvflow record`: run an application and record its model calls, without their text."""

from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from kvflow_agents.command import made_by
from kvflow_agents.recorder import SALT_VARIABLE, VARIABLE

if TYPE_CHECKING:
    import typer

NOT_FOUND = 127


def _add_to(app: typer.Typer) -> None:
    import typer

    @app.callback(invoke_without_command=True, context_settings={"allow_interspersed_args": False})
    def record(
        arguments: list[str] = typer.Argument(  # noqa: B008
            metavar="-- COMMAND...", help="What to run, such as `python app.py`."
        ),
        file: Path = typer.Option(  # noqa: B008
            Path("trace.jsonl"), "--to", metavar="FILE", dir_okay=False, help="Is appended to."
        ),
    ) -> None:
        """Run a command and record the model calls that kvflow puts hints on, in it and in its
        children. Exits as the command does."""
        before = _size(file)
        salt = os.environ.get(SALT_VARIABLE) or secrets.token_hex(16)
        environment = {**os.environ, VARIABLE: str(file.absolute()), SALT_VARIABLE: salt}
        status = _run(arguments, environment)
        recorded_bytes = _size(file) - before
        if recorded_bytes > 0:
            typer.echo(f"kvflow record: {recorded_bytes:,} bytes added to {file}", err=True)
        else:
            typer.echo(
                f"kvflow record: nothing was recorded in {file}: only calls that carry hints are",
                err=True,
            )
        raise typer.Exit(status)


__getattr__ = made_by(_add_to)


def _run(arguments: list[str], environment: dict[str, str]) -> int:
    import typer

    try:
        process = subprocess.Popen(arguments, env=environment)
    except OSError as error:
        typer.echo(f"kvflow record: {error}", err=True)
        return NOT_FOUND
    while True:
        try:
            status = process.wait()
        except KeyboardInterrupt:  # which the command has got as well
            continue
        return status if status >= 0 else 128 - status


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
