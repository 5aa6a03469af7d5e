"""A replay for the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kvflow_replay.answers import LiveReplay, rows
from kvflow_replay.document import ratio_to
from kvflow_replay.findings import Findings
from kvflow_replay.replay import Loss, Outcome, Replay, losses
from kvflow_replay.timed import TimedReplay
from kvflow_simulate.tables import table as figures_table

SHOWN_LOSSES = 10
# Where nobody sees the edge of a terminal.
PIPE_COLUMNS = 140
TIMED_COLUMNS = {
    "latency, ms": "mean_latency_ms",
    "TTFT, ms": "mean_ttft_ms",
    "TTFT 95%, ms": "p95_ttft_ms",
    "/ ceiling": "latency_of_ceiling",
    "hit rate": "hit_rate",
    "kept": "kept_tokens",
    "loaded ahead": "prefetch_found_tokens",
    "loaded": "host_tokens",
    "computed": "computed_tokens",
    "/ LRU": "computed_of_lru",
    "/ optimum": "computed_of_optimum",
}


def show(done: Replay, findings: Findings) -> None:
    """Print what the trace holds, what each policy found, and where LRU did better."""
    console = _console()
    for line in _about(done, findings):
        console.print(escape(line), highlight=False)
    console.print(_policies(done))
    lost = losses(done)
    if lost:
        console.print(_losses(lost))
    else:
        console.print("In no window and for no agent did LRU compute over 2% less.")


def show_live(live: LiveReplay, findings: Findings) -> None:
    """Print what a server answered."""
    console = _console()
    console.print(
        f"{live.calls:,} calls, {live.hinted:,} with a forecast, {live.failed:,} failed; "
        f"at most {live.late_s:.1f} s late",
        highlight=False,
    )
    for error in live.errors:
        console.print(escape(error), highlight=False)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("calls of")
    for column in ("calls", "prompt tokens", "hit rate", "from host", "latency, ms", "TTFT, ms"):
        table.add_column(column, justify="right")
    for row in rows(live):
        table.add_row(
            escape(row.name),
            f"{row.calls:,}",
            f"{row.prompt_tokens:,}",
            f"{row.hit_rate:.1%}",
            f"{row.host_tokens:,}",
            f"{row.mean_latency_ms:,.0f}",
            f"{row.mean_first_token_ms:,.0f}",
        )
    console.print(table)


def show_timed(done: TimedReplay, findings: Findings) -> None:
    """Print what a trace cost on a machine under each policy."""
    console = _console()
    sent = "" if done.speed == 1 else f", sent {done.speed:g} times as fast"
    lines = [
        f"{done.calls:,} calls, {done.hinted:,} with a forecast, in {done.trace_s:,.0f} s{sent}; "
        f"pool {done.sizes.pool_tokens:,} tokens, host {done.sizes.host_tokens:,}",
        *_apart(done.too_large, findings),
    ]
    for line in lines:
        console.print(escape(line), highlight=False)
    console.print(figures_table(done.rows, TIMED_COLUMNS))


def complaints(findings: Findings) -> list[str]:
    """What is wrong with the trace, a line for each kind."""
    texts = [f"{count:,} lines skipped: {why}" for why, count in findings.skipped.items()]
    texts += [f"{count:,} calls: {what}" for what, count in findings.mended.items()]
    if findings.unknown_fields:
        names = sorted(findings.unknown_fields)[:SHOWN_LOSSES]
        texts.append(f"fields without a meaning: {', '.join(names)}")
    return texts + findings.examples


def _about(done: Replay, findings: Findings) -> list[str]:
    block = done.sizes.block_tokens
    device, host = done.sizes.device_blocks * block, done.sizes.host_blocks * block
    lines = [
        f"{done.calls:,} calls, {done.hinted:,} with a forecast, in "
        f"{done.window_ends_s[-1] - done.begin_s:,.0f} s; blocks of {block} tokens; "
        f"pool {device:,} tokens, host {host:,}"
    ]
    return lines + _apart(done.too_large, findings)


def _apart(too_large: int, findings: Findings) -> list[str]:
    lines = []
    if too_large:
        lines.append(f"{too_large:,} calls left out: they do not fit in the pool")
    if findings.estimated_calls:
        lines.append(f"{findings.estimated_calls:,} calls with estimated lengths")
    return lines


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    return console


def _policies(done: Replay) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("policy")
    for column in ("host tier", "hit rate", "on device", "on host", "computed", "/ LRU"):
        table.add_column(column, justify="right")
    table.add_column("/ optimum", justify="right")
    for outcome in done.outcomes:
        table.add_row(*_row(done, outcome))
    return table


def _row(done: Replay, outcome: Outcome) -> list[str]:
    total = outcome.total
    cached_tokens = total.device_tokens + total.host_tokens
    is_optimum = outcome.policy.startswith("optimum")
    return [
        outcome.policy,
        "yes" if outcome.has_host_tier else "",
        f"{cached_tokens / total.prompt_tokens:.1%}",
        # The optimum does not tell its tiers apart.
        "" if is_optimum and outcome.has_host_tier else f"{total.device_tokens:,}",
        "" if is_optimum or not outcome.has_host_tier else f"{total.host_tokens:,}",
        f"{total.computed_tokens:,}",
        _ratio(ratio_to(done, outcome, "lru")),
        _ratio(ratio_to(done, outcome, "optimum")),
    ]


def _losses(lost: list[Loss]) -> Table:
    worst = sorted(lost, key=lambda loss: loss.lru_tokens - loss.computed_tokens)
    table = Table(box=box.SIMPLE_HEAD, title_justify="left")
    table.title = f"Where LRU computed less, in the same pools ({len(lost)} in all)"
    for column in ("policy", "where"):
        table.add_column(column)
    for column in ("computed", "by LRU", "/ LRU"):
        table.add_column(column, justify="right")
    for loss in worst[:SHOWN_LOSSES]:
        figures = (f"{loss.computed_tokens:,}", f"{loss.lru_tokens:,}", _ratio(loss.ratio))
        table.add_row(loss.policy, escape(loss.where), *figures)
    return table


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
