"""The `kvflow` command: every installed package adds its own commands to it."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

COMMANDS_GROUP = "kvflow.commands"


def main() -> None:
    """Run `kvflow`; commands come from the entry-point group `kvflow.commands`."""
    try:
        import typer
    except ModuleNotFoundError:
        sys.exit("kvflow: the command line needs typer: pip install 'kvflow-agents[cli]'")

    from kvflow_agents import __version__

    app = typer.Typer(
        name="kvflow",
        help="Workflow-aware prefix caching for LLM agents.",
        no_args_is_help=True,
        add_completion=False,
    )

    def print_version(wanted: bool) -> None:
        if wanted:
            typer.echo(__version__)
            raise typer.Exit

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", callback=print_version, is_eager=True, help="Print the version."
        ),
    ) -> None:
        pass

    for command in sorted(entry_points(group=COMMANDS_GROUP), key=lambda point: point.name):
        app.add_typer(command.load(), name=command.name)
    app()
