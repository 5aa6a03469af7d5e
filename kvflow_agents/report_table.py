"""A report as a table: plain text, or rich's where that is installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from kvflow_agents.reports import AgentReport

HEADINGS = (
    *("agent", "calls", "errors", "prompt tokens", "cached", "hit rate"),
    *("mean ms", "p50 ms", "p95 ms", "forecasts right", "off by ms"),
)
# Of the servers' receipts.
RECEIPT_COLUMNS = {
    "device": "device_tokens",
    "host": "host_tokens",
    "ahead": "prefetched_tokens",
    "late": "late_tokens",
    "wasted": "wasted_tokens",
    "lost": "lost_tokens",
}
UNKNOWN = "-"
APP_CHARS = 8


def text_table(agents: Sequence[AgentReport], notes: Sequence[str]) -> str:
    """Aligned lines, the names to the left and the figures to the right."""
    rows = [_headings(agents), *_rows(agents)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *figures in rows:
        cells = [name.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, *notes])


def rich_table(agents: Sequence[AgentReport], notes: Sequence[str]) -> Table:
    """A table for rich's console. Names are shown as they are, markup included."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Calls by agent", caption=Text("\n".join(notes)) if notes else None)
    name, *figures = _headings(agents)
    table.add_column(name)
    for heading in figures:
        table.add_column(heading, justify="right")
    for row in _rows(agents):
        table.add_row(*(Text(cell) for cell in row))
    return table


def _headings(agents: Sequence[AgentReport]) -> tuple[str, ...]:
    return HEADINGS + (tuple(RECEIPT_COLUMNS) if _has_receipts(agents) else ())


def _rows(agents: Sequence[AgentReport]) -> Iterator[list[str]]:
    has_apps = len({each.app for each in agents}) > 1
    has_receipts = _has_receipts(agents)
    for each in agents:
        row = _row(each, has_apps)
        if has_receipts:
            sums = each.receipts
            fields = RECEIPT_COLUMNS.values()
            row += [UNKNOWN if sums is None else f"{sums.get(name, 0):,}" for name in fields]
        yield row


def _row(each: AgentReport, has_apps: bool) -> list[str]:
    told = each.forecast.right + each.forecast.wrong
    app = f" ({(each.app or UNKNOWN)[:APP_CHARS]})" if has_apps else ""
    times = each.latency
    latency = (times.mean_s, times.p50_s, times.p95_s) if times else (None, None, None)
    return [
        each.agent + app,
        f"{each.calls:,}",
        f"{each.errors:,}",
        f"{each.prompt_tokens:,}",
        UNKNOWN if each.hit_rate is None else f"{each.cached_tokens:,}",
        UNKNOWN if each.hit_rate is None else f"{each.hit_rate:.0%}",
        *map(_ms, latency),
        f"{each.forecast.right} of {told}" if told else UNKNOWN,
        _ms(each.forecast.mean_abs_s),
    ]


def _has_receipts(agents: Sequence[AgentReport]) -> bool:
    return any(each.receipts is not None for each in agents)


def _ms(time_s: float | None) -> str:
    return UNKNOWN if time_s is None else f"{time_s * 1000:,.0f}"
