"""`kvflow replay`: recorded traffic under other policies."""

from __future__ import annotations

import typer

app = typer.Typer(help=__doc__, add_completion=False)
