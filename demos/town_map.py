"""The town as it was at the end, drawn: who walked where, and whose prompts were found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demos.society import Society

# Found shares from none to all, legible in grey too.
COLOURS = "viridis"


def draw(society: Society, found: Mapping[str, Mapping[str, float]], file: Path) -> None:
    """One map for each run of `found`: by agent, the share of its prompts that was cached.

    Needs matplotlib; ImportError without.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    size = (5.5 * len(found) + 1.2, 6.0)
    figure, axes = plt.subplots(1, len(found), figsize=size, squeeze=False, layout="constrained")
    for axis, (run, shares) in zip(axes[0], found.items(), strict=True):
        dots = _draw_town(axis, society, shares)
        mean = sum(shares.values()) / max(len(shares), 1)
        axis.set_title(f"{run}: {mean:.0%} of a prompt found")
    figure.colorbar(
        dots, ax=list(axes[0]), label="found in the cache, of each agent's prompt tokens"
    )
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _draw_town(axis: Any, society: Society, shares: Mapping[str, float]) -> Any:
    people = list(society.people.values())
    for person in people:
        path = [*person.trail, person.position]
        axis.plot(*zip(*path, strict=True), color="0.85", linewidth=0.6, zorder=1)
    for place, (x, y) in society.places.items():
        axis.plot(x, y, marker="s", markersize=9, color="0.55", zorder=2)
        axis.annotate(place, (x, y), (0, 9), textcoords="offset points", ha="center", fontsize=8)
    crowd: dict[tuple[float, float], int] = {}
    spots = []
    for person in people:
        # Those who stand at one place stand in rows below it.
        number = crowd[person.position] = crowd.get(person.position, -1) + 1
        x, y = person.position
        spots.append((x + (number % 6 - 2.5) * 1.1, y - 2 - number // 6 * 1.3))
    colours = [shares.get(person.name, 0.0) for person in people]
    axis.set_axis_off()
    axis.set_aspect("equal")
    return axis.scatter(
        *zip(*spots, strict=True), c=colours, cmap=COLOURS, vmin=0, vmax=1, s=16, zorder=3
    )
