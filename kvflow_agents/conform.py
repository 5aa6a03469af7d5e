"""`kvflow conform`: does a server take forecasts as docs/wire.md says?"""

from __future__ import annotations

from collections import Counter
from http.client import HTTPException
from typing import TYPE_CHECKING

from kvflow_agents.command import made_by
from kvflow_agents.conformance_suite import SUITES, Runner, load_cases
from kvflow_agents.servers import Server, root_of

if TYPE_CHECKING:
    import typer

UNREACHABLE = 2
SUITES_HELP = f"One of {', '.join(SUITES)}; may be repeated."


def _add_to(app: typer.Typer) -> None:
    import typer

    @app.callback(invoke_without_command=True)
    def conform(
        server: str = typer.Option(..., metavar="URL", help="Such as http://localhost:30000."),
        key: str | None = typer.Option(None, envvar="KVFLOW_API_KEY", help="Its API key."),
        model: str | None = typer.Option(None, help="Its first one unless given."),
        only: list[str] = typer.Option(  # noqa: B008
            [], metavar="SUITE", help=SUITES_HELP
        ),
    ) -> None:
        """Ask a server what the conformance suite asks. Exits 1 if it fails a case that it must
        pass, 2 if it cannot be reached."""
        unknown = sorted(set(only) - set(SUITES))
        if unknown:
            raise typer.BadParameter(f"no suite {', '.join(unknown)}", param_hint="--only")
        failed: Counter[str] = Counter()
        passed: Counter[str] = Counter()
        try:
            runner = Runner(Server(root_of(server), key), model=model)
        except (OSError, HTTPException, ValueError) as error:
            typer.echo(f"kvflow conform: {server} cannot be asked: {error}", err=True)
            raise typer.Exit(UNREACHABLE) from error
        for case in load_cases():
            if only and case.suite not in only:
                continue
            if case.needs_key and key is None:
                typer.echo(f"skipped  {case.suite}: {case.name}: needs --key")
                continue
            fault = runner.run(case).fault
            (passed if fault is None else failed)[case.level] += 1
            verdict = "passed " if fault is None else f"FAILED ({case.level})"
            typer.echo(f"{verdict}  {case.suite}: {case.name}")
            if fault is not None:
                typer.echo(f"         {fault}")
        for level in ("must", "should", "may"):
            total = passed[level] + failed[level]
            typer.echo(f"{level}: {passed[level]} of {total} passed")
        raise typer.Exit(1 if failed["must"] else 0)


__getattr__ = made_by(_add_to)
