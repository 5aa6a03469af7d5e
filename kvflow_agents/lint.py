"""`kvflow lint`: find prompts that no prefix cache can help, in a recording of model calls."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvflow_agents.call_log import BadLine, read_calls
from kvflow_agents.command import made_by
from kvflow_agents.prefix_lint import LEAST_LOST_TOKENS, Finding, PrefixLint
from kvflow_agents.prompt_recorder import VARIABLE

if TYPE_CHECKING:
    import typer

SHOWN_BAD_LINES = 5
NOTHING_READ = 2
OF_RECORD = (
    "this is a trace, with hashes of prompts instead of their text: run the application with "
    f"{VARIABLE}=calls.jsonl in its environment, and lint that file"
)


def _add_to(app: typer.Typer) -> None:
    import typer

    @app.callback(invoke_without_command=True, context_settings={"allow_interspersed_args": True})
    def lint(
        file: Path = typer.Argument(  # noqa: B008
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="JSON lines: chat completion bodies, each with an `agent` or a hint; "
            f"{VARIABLE}=FILE in an application's environment has them recorded.",
        ),
        as_json: bool = typer.Option(False, "--json", help="Print JSON instead of a table."),
        least_tokens: int = typer.Option(
            LEAST_LOST_TOKENS, min=1, help="Leave out what costs fewer tokens a call."
        ),
    ) -> None:
        """Find prompts that change in front of what stays the same.

        Exits 1 if there are any, and 2 if FILE has no call to look at.
        """
        checked = PrefixLint(least_lost_tokens=least_tokens)
        calls: Counter[str] = Counter()
        bad_lines: list[BadLine] = []
        with file.open("rb") as lines:
            for one in read_calls(lines):
                if isinstance(one, BadLine):
                    bad_lines.append(one)
                else:
                    calls[one.agent] += 1
                    checked.see(one.agent, one.body)
        skipped = [line for line in bad_lines if not line.is_cut_short]
        for text in _complaints(bad_lines):
            typer.echo(text, err=True)
        if not calls:
            typer.echo(f"{file}: no call could be read", err=True)
            raise typer.Exit(NOTHING_READ)
        findings = checked.findings()
        if as_json:
            typer.echo(json.dumps(_document(findings, calls, len(skipped)), indent=2))
        else:
            _show(findings, calls)
        raise typer.Exit(1 if findings else 0)


__getattr__ = made_by(_add_to)


def _complaints(bad_lines: list[BadLine]) -> list[str]:
    skipped = [line for line in bad_lines if not line.is_cut_short]
    texts = [f"line {line.number}: skipped: {line.reason}" for line in skipped[:SHOWN_BAD_LINES]]
    if len(skipped) > SHOWN_BAD_LINES:
        texts.append(f"{len(skipped)} lines skipped in all")
    texts += [f"line {line.number}: cut short" for line in bad_lines if line.is_cut_short]
    if any(line.is_hashed for line in skipped):
        texts.append(OF_RECORD)
    return texts


def _document(findings: list[Finding], calls: Counter[str], skipped: int) -> dict[str, Any]:
    return {
        "calls": calls.total(),
        "agents": len(calls),
        "skipped_lines": skipped,
        "findings": [asdict(finding) for finding in findings],
    }


def _show(findings: list[Finding], calls: Counter[str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    seen = f"{calls.total()} calls of {len(calls)} agents"
    if not findings:
        console.print(f"{seen}: no prompt breaks its prefix.")
        return
    table = Table(
        "agent", "where", "what changes", "lost tokens a call", "calls", "do", show_lines=True
    )
    for one in findings:
        example = one.example
        table.add_row(
            escape(one.agent),
            f"{example.place}\ncharacter {example.char:,}",
            f"{example.kind}\n{escape(repr(example.before))}\n{escape(repr(example.after))}",
            f"{one.lost_tokens // one.breaks:,}",
            f"{one.breaks} of {one.calls}",
            example.advice,
        )
    console.print(table)
    total = sum(one.lost_tokens for one in findings)
    console.print(f"{seen}: about {total:,} tokens could have been found in a prefix cache.")
