"""Simulated results for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

COLUMNS = {
    "latency, ms": "mean_latency_ms",
    "TTFT, ms": "mean_ttft_ms",
    "/ ceiling": "latency_of_ceiling",
    "/ optimum": "latency_of_optimum",
    "hit rate": "hit_rate",
    "kept": "kept_tokens",
    "loaded ahead": "prefetch_found_tokens",
    "loaded": "host_tokens",
    "computed": "computed_tokens",
    "computed / optimum": "computed_of_optimum",
    "copied ahead": "prefetched_tokens",
    "wasted": "prefetch_wasted_tokens",
    "waits": "waits",
}
LORA_COLUMNS = {
    "latency, ms": "mean_latency_ms",
    "TTFT, ms": "mean_ttft_ms",
    "/ ceiling": "latency_of_ceiling",
    "kept": "kept_tokens",
    "computed": "computed_tokens",
    "adapter there": "adapter_hit_share",
    "loaded": "adapter_loads",
    "ahead": "adapter_prefetches",
    "used": "adapter_prefetches_used",
}
# Where nobody sees the edge of a terminal.
PIPE_COLUMNS = 180


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table for each workload."""
    console = Console()
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    for name in dict.fromkeys(row["workload"] for row in rows):
        of_one = [row for row in rows if row["workload"] == name]
        has_adapters = any(row["adapter_hit_share"] is not None for row in of_one)
        console.print(table(of_one, LORA_COLUMNS if has_adapters else COLUMNS, title=name))


def table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, title: str | None = None
) -> Table:
    """A line for each policy; `columns` say which figure is under which heading."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("policy")
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(row["policy"], *(_cell(row[key]) for key in columns.values()))
    return table


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3f}"
