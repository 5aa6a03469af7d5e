"""Hit rate over time, agent by agent, stock beside kvflow: a picture of one run or several.

    python demos/plot_report.py stock=stock.json kvflow=kvflow.json --to hit-rate.png
    python demos/plot_report.py demo.json --to hit-rate.png

A file is a report (`kvflow_agents.report().to_json()`) or what a demo writes with `--json`, of
which the first workload's runs without a host tier are shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

COLUMNS = 4
MOST_AGENTS = 24
# Legible in grey too: the lines differ in their marks.
STYLES = ("o-", "s-", "^-", "x-")

Usages = Sequence[Mapping[str, Any]]
Run = Mapping[str, Usages]
"""What each agent's calls used, in order, by agent."""


def read_runs(argument: str) -> dict[str, Run]:
    """The runs of one argument, `NAME=FILE` or `FILE`, by name; ValueError if it has none."""
    name, _, path = argument.rpartition("=")
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    if "runs" in document:
        return _runs_of_demo(document["runs"])
    if "agents" not in document:
        raise ValueError(f"{path} is neither a report nor what a demo writes")
    agents = {each["agent"]: each["usages"] for each in document["agents"]}
    return {name or Path(path).stem: agents}


def _runs_of_demo(runs: Sequence[Mapping[str, Any]]) -> dict[str, Run]:
    shown = [
        run
        for run in runs
        if run["workload"] == runs[0]["workload"] and run["host_tier"] == runs[0]["host_tier"]
    ]
    return {
        run["policy"]: {agent: figures["usages"] for agent, figures in run["agents"].items()}
        for run in shown
    }


def hit_rates(usages: Usages) -> tuple[list[float], list[float]]:
    """When each call was made, and the share of its prompt that was cached.

    Calls of which a server did not say it are left out.
    """
    known = [usage for usage in usages if usage["cached_tokens"] is not None]
    known = [usage for usage in known if usage["prompt_tokens"]]
    return (
        [usage["when_s"] for usage in known],
        [usage["cached_tokens"] / usage["prompt_tokens"] for usage in known],
    )


def draw(runs: Mapping[str, Run], file: Path) -> None:
    """One small plot for each agent, one line for each run; time counts from a run's first call."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    agents = list(dict.fromkeys(agent for run in runs.values() for agent in run))[:MOST_AGENTS]
    rows = -(-len(agents) // COLUMNS)
    figure, axes = plt.subplots(
        *(max(rows, 1), COLUMNS),
        figsize=(2.6 * COLUMNS, 1.7 * max(rows, 1) + 0.5),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, agent in zip(axes.flat, agents, strict=False):
        for (name, run), style in zip(runs.items(), STYLES * len(runs), strict=False):
            _draw_line(axis, run, agent, name, style)
        axis.set_title(agent, fontsize=9)
        axis.set_ylim(-0.05, 1.05)
    for axis in axes.flat[len(agents) :]:
        axis.set_axis_off()
    figure.supxlabel("seconds since the run's first call", fontsize=9)
    figure.supylabel("share of the prompt cached", fontsize=9)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper right", ncols=4)
    figure.savefig(file, dpi=80)
    plt.close(figure)


def _draw_line(axis: Any, run: Run, agent: str, name: str, style: str) -> None:
    begin_s = min((each["when_s"] for usages in run.values() for each in usages), default=0.0)
    times_s, rates = hit_rates(run.get(agent, ()))
    axis.plot([time_s - begin_s for time_s in times_s], rates, style, label=name, markersize=3)


def main(
    files: Annotated[list[str], typer.Argument(help="FILE or NAME=FILE, each a JSON.")],
    to: Annotated[Path, typer.Option(help="The picture.")] = Path("hit-rate.png"),
) -> None:
    """Plot hit rate over time, agent by agent."""
    runs: dict[str, Run] = {}
    for argument in files:
        runs |= read_runs(argument)
    draw(runs, to)


if __name__ == "__main__":
    typer.run(main)
