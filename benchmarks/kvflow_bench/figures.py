"""Figures of one run, and what several runs say together. Pure."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PERCENTS = (50, 95, 99)
CEILING = "ceiling"
STOCK = "hicache"
# Where no arm has a host tier.
STOCK_ON_DEVICE = "lru"

Figures = dict[str, float | None]
Pair = tuple[Mapping[str, Any], Mapping[str, Any]]


def percentile(values: Sequence[float], percent: float) -> float:
    """Between the two closest ranks, linearly. ValueError if there are no values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    below = math.floor(rank)
    above = math.ceil(rank)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def figures_of(calls: Mapping[str, Sequence[Any]], elapsed_s: float) -> Figures:
    """What one run's calls, as columns, amount to."""
    figures: Figures = {"calls": len(calls["latency_ms"]), "elapsed_s": elapsed_s}
    for name in ("latency_ms", "ttft_ms"):
        figures[f"mean_{name}"] = statistics.fmean(calls[name])
        for percent in PERCENTS:
            figures[f"p{percent}_{name}"] = percentile(calls[name], percent)
    gaps = [gap for gap in calls["inter_token_ms"] if gap is not None]
    figures["mean_inter_token_ms"] = statistics.fmean(gaps) if gaps else None
    for name in ("prompt_tokens", "device_tokens", "host_tokens", "output_tokens"):
        figures[name] = sum(calls[name])
    figures["calls_per_s"] = len(calls["latency_ms"]) / elapsed_s
    figures["output_tokens_per_s"] = sum(calls["output_tokens"]) / elapsed_s
    return figures


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the repeats."""

    median: float
    least: float
    most: float
    repeats: int
    is_paired: bool = True
    """Of a ratio: whether both sides come from the same repeats."""


def spread(values: Sequence[float | None], *, is_paired: bool = True) -> Spread | None:
    """The spread of what is there; None if nothing is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(statistics.median(known), min(known), max(known), len(known), is_paired)


class Comparison:
    """Runs of one workload, by arm and repeat, as they stand in a document."""

    def __init__(self, runs: Sequence[Mapping[str, Any]]) -> None:
        self._runs: dict[str, dict[Any, Mapping[str, Any]]] = defaultdict(dict)
        for run in runs:
            if "figures" in run:
                self._runs[run["arm"]][(run.get("session", 0), run["repeat"])] = run

    @property
    def arms(self) -> list[str]:
        """The arms that have runs."""
        return list(self._runs)

    @property
    def stock(self) -> str:
        """The stock server that the others are compared with."""
        return (
            STOCK_ON_DEVICE if STOCK_ON_DEVICE in self._runs and STOCK not in self._runs else STOCK
        )

    def of(self, arm: str, figure: str) -> Spread | None:
        """A figure of an arm over its repeats."""
        return spread([run["figures"].get(figure) for run in self._runs[arm].values()])

    def counted(self, arm: str, counter: str) -> Spread | None:
        """What the server of an arm counted per run."""
        return spread([run["counters"].get(counter) for run in self._runs[arm].values()])

    def counter_names(self, arm: str) -> set[str]:
        """What the server of an arm has counted."""
        return {name for run in self._runs[arm].values() for name in run["counters"]}

    def ratio(self, arm: str, base: str, figure: str = "mean_latency_ms") -> Spread | None:
        """A figure of an arm over that of another in the same repeat, over all such pairs.

        Where the two have run in different sessions only, over the other's median.
        """
        if pairs := self._pairs(arm, base):
            return spread([_ratio(*(run["figures"][figure] for run in pair)) for pair in pairs])
        theirs = self.of(base, figure) if base in self._runs else None
        if theirs is None:
            return None
        mine = [run["figures"][figure] for run in self._runs[arm].values()]
        return spread([_ratio(value, theirs.median) for value in mine], is_paired=False)

    def different_outputs(self, arm: str, base: str) -> tuple[int, int] | None:
        """How many answers of an arm differ from another's in the same repeat, and of how many.

        None for the arm itself, and if they share no repeat.
        """
        return None if arm == base else _different_outputs(self._pairs(arm, base))

    def changed_outputs(self, arm: str) -> tuple[int, int] | None:
        """The same for an arm's later repeats against its first: what differs by itself."""
        first: dict[Any, Mapping[str, Any]] = {}
        pairs = [
            (run, first.setdefault(session, run))
            for (session, _), run in sorted(self._runs[arm].items())
        ]
        return _different_outputs([pair for pair in pairs if pair[0] is not pair[1]])

    def _pairs(self, arm: str, base: str) -> list[Pair]:
        mine, theirs = self._runs[arm], self._runs.get(base, {})
        return [(run, theirs[key]) for key, run in mine.items() if key in theirs]


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _different_outputs(pairs: Sequence[Pair]) -> tuple[int, int] | None:
    if not pairs:
        return None
    hashes = [(run["calls"]["output_hash"], other["calls"]["output_hash"]) for run, other in pairs]
    return sum(count_different(*each) for each in hashes), sum(len(mine) for mine, _ in hashes)


def count_different(mine: Sequence[Any], theirs: Sequence[Any]) -> int:
    """How many entries differ; a missing one differs."""
    both = zip(mine, theirs, strict=False)
    return abs(len(mine) - len(theirs)) + sum(bool(one != other) for one, other in both)


def by_workload(runs: Sequence[Mapping[str, Any]]) -> dict[str, Comparison]:
    """The runs of each workload; equal names with other parameters are kept apart."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    sizes: dict[str, list[Any]] = defaultdict(list)
    for run in runs:
        workload = run["workload"]
        seen = sizes[workload["name"]]
        if workload["parameters"] not in seen:
            seen.append(workload["parameters"])
        number = seen.index(workload["parameters"])
        groups[workload["name"] + (f" ({number + 1})" if number else "")].append(run)
    return {name: Comparison(group) for name, group in groups.items()}
