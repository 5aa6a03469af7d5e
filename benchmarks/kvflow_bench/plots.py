"""Results as pictures, on a transparent ground and legible on a white and on a black one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kvflow_bench.document import runs_of
from kvflow_bench.figures import CEILING, STOCK, Comparison, Spread, by_workload

# The grey with the same contrast to white as to black.
INK = "#777777"
# After Okabe and Ito, whom the colour-blind can tell apart.
COLOURS = {
    "lru": "#999999",
    "hicache": "#e69f00",
    "kvflow": "#0079bf",
    "kvflow-unhinted": "#56b4e9",
    "kvflow-wrong": "#cc79a7",
    "kvflow-noprefetch": "#d55e00",
    "kvflow-device": "#8a7fd6",
    "ceiling": "#009e73",
}
SOURCES = (
    ("on the device", "#009e73"),
    ("loaded back when asked for", "#e69f00"),
    ("computed", "#d55e00"),
)
STYLE: dict[Any, Any] = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "font.size": 10,
    # Text stays text, and a file differs only where its figures do.
    "svg.fonttype": "none",
    "svg.hashsalt": "kvflow",
}
GROUP_WIDTH = 0.8


def write(sessions: Sequence[Mapping[str, Any]], folder: Path, suffix: str) -> list[Path]:
    """Draw everything into `folder`; the files that were written."""
    workloads = by_workload(runs_of(sessions))
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(STYLE):
        for name, figure in (
            ("latency-ratio", latency_ratio(workloads)),
            ("ttft", ttft(workloads)),
            ("tokens-by-source", tokens_by_source(workloads)),
        ):
            path = folder / f"{name}.{suffix}"
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(path, transparent=True, bbox_inches="tight", dpi=200, metadata=metadata)
            written.append(path)
    return written


def latency_ratio(workloads: Mapping[str, Comparison]) -> Figure:
    """Mean latency over the ceiling's, or over HiCache's where no ceiling was measured."""
    has_ceiling = any(CEILING in comparison.arms for comparison in workloads.values())
    base = CEILING if has_ceiling else STOCK
    values = {
        name: {arm: comparison.ratio(arm, base) for arm in comparison.arms if arm != base}
        for name, comparison in workloads.items()
    }
    figure, axes = _figure(len(workloads))
    _bars(axes, values)
    axes.axhline(1, color=INK, linewidth=1)
    axes.set_ylabel(f"mean latency / {base}'s")
    return figure


def ttft(workloads: Mapping[str, Comparison]) -> Figure:
    """Mean time to first token, with a line up to the 99th percentile."""
    values = {
        name: {arm: _mean_to_p99(comparison, arm) for arm in comparison.arms}
        for name, comparison in workloads.items()
    }
    figure, axes = _figure(len(workloads))
    _bars(axes, values)
    axes.set_ylabel("time to first token, ms (line: to p99)")
    return figure


def tokens_by_source(workloads: Mapping[str, Comparison]) -> Figure:
    """The share of prompt tokens that each arm found, loaded and computed."""
    rows = [(name, arm) for name, comparison in workloads.items() for arm in comparison.arms]
    figure = Figure(figsize=(8, 1 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    shares = [_shares(workloads[name], arm) for name, arm in rows]
    left = [0.0] * len(rows)
    for index, (label, colour) in enumerate(SOURCES):
        widths = [share[index] for share in shares]
        axes.barh(range(len(rows)), widths, left=left, color=colour, label=label)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(rows)), [f"{name}: {arm}" for name, arm in rows])
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of prompt tokens")
    figure.legend(loc="outside upper center", ncols=len(SOURCES))
    return figure


def _figure(workloads: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(max(6.0, 2.2 * workloads), 4), layout="constrained")
    axes = figure.subplots()
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    return figure, axes


def _bars(axes: Axes, values: Mapping[str, Mapping[str, Spread | None]]) -> None:
    """Groups of bars, one per workload; a line goes from the least to the most."""
    arms = list(dict.fromkeys(arm for of_arm in values.values() for arm in of_arm))
    width = GROUP_WIDTH / max(len(arms), 1)
    for index, arm in enumerate(arms):
        shift = (index - (len(arms) - 1) / 2) * width
        found = [(at, of_arm.get(arm)) for at, of_arm in enumerate(values.values())]
        drawn = [(at + shift, spread) for at, spread in found if spread is not None]
        axes.bar(
            [at for at, _ in drawn],
            [spread.median for _, spread in drawn],
            width * 0.92,
            yerr=[
                [spread.median - spread.least for _, spread in drawn],
                [spread.most - spread.median for _, spread in drawn],
            ],
            ecolor=INK,
            color=COLOURS.get(arm, INK),
            label=arm,
        )
    axes.set_xticks(range(len(values)), list(values))
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _mean_to_p99(comparison: Comparison, arm: str) -> Spread | None:
    mean, p99 = (comparison.of(arm, figure) for figure in ("mean_ttft_ms", "p99_ttft_ms"))
    if mean is None or p99 is None:
        return None
    return Spread(mean.median, mean.median, max(p99.median, mean.median), mean.repeats)


def _shares(comparison: Comparison, arm: str) -> tuple[float, float, float]:
    names = ("prompt_tokens", "device_tokens", "host_tokens")
    prompt, device, host = (
        spread.median if (spread := comparison.of(arm, name)) else 0.0 for name in names
    )
    if not prompt:
        return 0.0, 0.0, 0.0
    return device / prompt, host / prompt, (prompt - device - host) / prompt
