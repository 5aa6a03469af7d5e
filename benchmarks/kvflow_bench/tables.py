"""Results for the terminal: one line per run as it ends, and tables of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from kvflow_bench.counters import KVFLOW
from kvflow_bench.document import runs_of
from kvflow_bench.figures import CEILING, Comparison, Spread, by_workload

PERCENTILES = ("p50", "p95", "p99")
TOKENS = (("prompt", "prompt_tokens"), ("device", "device_tokens"), ("host", "host_tokens"))
COUNTED = (("evicted", "evicted_tokens_total"), ("loaded back", "load_back_tokens_total"))
OWN = (f"{KVFLOW}prefetch", f"{KVFLOW}lora_re", f"{KVFLOW}lora_loads", f"{KVFLOW}lora_prefetches")
# Where nobody sees the edge of a terminal.
PIPE_COLUMNS = 220


def line(run: Mapping[str, Any]) -> str:
    """One finished run."""
    what = f"{run['workload']['name']:<16} {run['arm']:<18} #{run['repeat']}"
    if "error" in run:
        return f"{what}  failed: {run['error'][:300]}"
    figures = run["figures"]
    return (
        f"{what}  latency {figures['mean_latency_ms']:8.1f} ms  "
        f"TTFT {figures['mean_ttft_ms']:8.1f} (p99 {figures['p99_ttft_ms']:8.1f})  "
        f"{figures['calls_per_s']:7.2f} calls/s  device {figures['device_tokens']:,} "
        f"host {figures['host_tokens']:,} of {figures['prompt_tokens']:,}"
    )


def show(sessions: Sequence[Mapping[str, Any]]) -> None:
    """Print every table of some sessions, and where they were measured."""
    console = Console()
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    for session in sessions:
        console.print(_place(session), markup=False, highlight=False)
    runs = runs_of(sessions)
    for name, comparison in by_workload(runs).items():
        console.print(times(name, comparison))
        console.print(tokens(name, comparison))
    for run in runs:
        if "error" in run:
            console.print(line(run), markup=False)


def times(name: str, comparison: Comparison) -> Table:
    """Latency, time to first token, throughput and ratios of each arm, medians over the repeats."""
    columns = ["arm", "runs", "latency, ms", "p50/95/99", "TTFT, ms", "p50/95/99", "per token, ms"]
    stock = comparison.stock
    ratios = [f"throughput / {stock}", "latency / ceiling", f"latency / {stock}"]
    table = _table(f"{name}: time", [*columns, "calls/s", "tokens/s", *ratios])
    for arm in comparison.arms:
        mean = comparison.of(arm, "mean_latency_ms")
        table.add_row(
            arm,
            str(mean.repeats) if mean else "0",
            _with_range(mean, 1),
            _percentiles(comparison, arm, "latency_ms"),
            _median(comparison.of(arm, "mean_ttft_ms"), 1),
            _percentiles(comparison, arm, "ttft_ms"),
            _median(comparison.of(arm, "mean_inter_token_ms"), 1),
            _median(comparison.of(arm, "calls_per_s"), 2),
            _median(comparison.of(arm, "output_tokens_per_s"), 1),
            _with_range(comparison.ratio(arm, stock, "calls_per_s"), 3),
            _with_range(comparison.ratio(arm, CEILING), 3),
            _with_range(comparison.ratio(arm, stock), 3),
        )
    return table


def tokens(name: str, comparison: Comparison) -> Table:
    """Where prompts were found, what the server moved, and whose answers differ."""
    columns = ["arm", *(title for title, _ in (*TOKENS, *COUNTED))]
    own = _own_counters(comparison)
    short = [name.removeprefix(KVFLOW).removesuffix("_tokens").replace("_", " ") for name in own]
    table = _table(
        f"{name}: tokens", [*columns, "GB/s", *short, f"unlike {comparison.stock}'s", "unlike own"]
    )
    for arm in comparison.arms:
        table.add_row(
            arm,
            *(_median(comparison.of(arm, figure), 0) for _, figure in TOKENS),
            *(_median(comparison.counted(arm, counter), 0) for _, counter in COUNTED),
            _median(comparison.of(arm, "load_back_gb_per_s"), 2),
            *(_median(comparison.counted(arm, counter), 0) for counter in own),
            _share(comparison.different_outputs(arm, comparison.stock)),
            _share(comparison.changed_outputs(arm)),
        )
    return table


def _own_counters(comparison: Comparison) -> list[str]:
    """kvflow's counters of early loads and of LoRA adapters, as far as its server has them."""
    names = {name for arm in comparison.arms for name in comparison.counter_names(arm)}
    return sorted(name for name in names if name.startswith(OWN))


def _place(session: Mapping[str, Any]) -> str:
    where = session["environment"]
    device = ", ".join(where["gpu"]) or f"{where['cpu']} ({where['cores']} cores)"
    return (
        f"{session['started_at']}  {device}, SGLang {where['sglang']}, kvflow {where['kvflow']}\n"
        f"$ {session['command']}"
    )


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _share(counts: tuple[int, int] | None) -> str:
    return "-" if counts is None else f"{counts[0]:,} of {counts[1]:,}"


def _percentiles(comparison: Comparison, arm: str, figure: str) -> str:
    found = [comparison.of(arm, f"{percentile}_{figure}") for percentile in PERCENTILES]
    return " ".join(_median(value, 0) for value in found)


def _median(value: Spread | None, digits: int) -> str:
    return "-" if value is None else f"{value.median:,.{digits}f}"


def _with_range(value: Spread | None, digits: int) -> str:
    """The median, with least and most if they differ; `~` where repeats could not be paired."""
    if value is None:
        return "-"
    text = ("" if value.is_paired else "~") + _median(value, digits)
    if value.least == value.most:
        return text
    return f"{text} ({value.least:,.{digits}f}-{value.most:,.{digits}f})"
