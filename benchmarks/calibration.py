"""How far learned forecasts can be trusted: are their chances and times borne out?

    python benchmarks/calibration.py [--runs 400] [--warm-up 20] [--json FILE]

Synthetic workloads run on a clock of their own, through the same `Workflow` that adapters use.
At every call the forecast is made first and learned from afterwards, so no figure is scored
against what it was made from. Repeats (an agent calls again) and switches are scored apart.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kvflow_agents import App, Join, StepGraph, Workflow
from kvflow_agents.delays import Delay
from kvflow_agents.following import END
from kvflow_agents.scopes import END as END_NODE
from kvflow_agents.scopes import START
from kvflow_agents.step_delays import delays_ahead

BINS = 10


@dataclass(frozen=True)
class Turn:
    """An agent at work: seconds from each of its calls to the next, and to its end."""

    agent: str
    gaps_s: tuple[float, ...]


Step = list[Turn]
"""Turns that begin at once; the next step begins when all of them have ended."""
Make = Callable[[random.Random, float], Iterator[Step]]
"""The steps of one run; how much of the benchmark is over lies in [0, 1)."""


@dataclass(frozen=True)
class Workload:
    """A kind of application: its structure, as far as an adapter would see it, and its runs."""

    edges: Sequence[tuple[str, str]]
    make: Make
    is_open: bool = False

    def app(self) -> App:
        joins = [Join(frozenset(source.split("+")), target) for source, target in self.edges]
        agents = {agent for join in joins for agent in (*join.sources, join.target)}
        graph = StepGraph(
            joins,
            passive=[START, END_NODE],
            open_agents=agents - {START, END_NODE} if self.is_open else (),
        )
        return App(graph, name="calibration")


def turn(agent: str, chance: random.Random, mean_s: float = 2.0) -> Turn:
    """One call, and what is done with its answer."""
    return Turn(agent, (mean_s * chance.lognormvariate(-0.125, 0.5),))


def sequential(chance: random.Random, _: float) -> Iterator[Step]:
    for agent in "abcde":
        yield [turn(agent, chance)]


def branching(chance: random.Random, _: float) -> Iterator[Step]:
    while True:
        yield [turn("a", chance)]
        yield [turn("b", chance)] if chance.random() < 0.7 else [turn("c", chance, 8.0)]
        yield [turn("d", chance)]
        if chance.random() < 0.6:
            return


def parallel(chance: random.Random, _: float) -> Iterator[Step]:
    yield [turn("a", chance)]
    yield [turn("b", chance, 1.0), turn("c", chance, 2.0), turn("d", chance, 6.0)]
    yield [turn("e", chance)]


def supervisor(chance: random.Random, _: float) -> Iterator[Step]:
    while True:
        yield [turn("boss", chance, 1.0)]
        if chance.random() < 0.2:
            return
        yield [turn(chance.choices("abc", (6, 3, 1))[0], chance, 4.0)]


def rota(chance: random.Random, _: float) -> Iterator[Step]:
    """A supervisor who asks everybody in a fixed order: what the last call alone cannot tell."""
    for agent in "abc":
        yield [turn("boss", chance, 1.0)]
        yield [turn(agent, chance, 4.0)]
    yield [turn("boss", chance, 1.0)]


def group_chat(chance: random.Random, _: float) -> Iterator[Step]:
    speaker = 0
    while True:
        yield [turn("abcde"[speaker], chance)]
        if chance.random() < 0.08:
            return
        speaker = (speaker + chance.choices((1, 2, 3, 4), (8, 4, 2, 1))[0]) % 5


def tools(chance: random.Random, _: float) -> Iterator[Step]:
    """Tools whose times have a heavy tail: a mean far above the median, no variance."""
    for agent in "abc":
        gaps = []
        while chance.random() < 0.75:
            gaps.append(1.0 + 0.5 * chance.paretovariate(1.1))
        yield [Turn(agent, (*gaps, 1.5 * chance.lognormvariate(0.0, 0.3)))]


def mixed(chance: random.Random, over: float) -> Iterator[Step]:
    """One application, several uses: short questions, tool work, long chats."""
    yield [turn("front", chance, 1.0)]
    kind = chance.random()
    if kind < 0.5:
        yield [turn("answer", chance)]
    elif kind < 0.8:
        yield from tools(chance, over)
    else:
        yield from group_chat(chance, over)


def drift(chance: random.Random, over: float) -> Iterator[Step]:
    """Half way through, the favourite changes and everything takes ten times as long."""
    slow = 10.0 if over >= 0.5 else 1.0
    yield [turn("a", chance, 2.0 * slow)]
    favourite, other = ("c", "b") if over >= 0.5 else ("b", "c")
    yield [turn(favourite if chance.random() < 0.9 else other, chance, 2.0 * slow)]
    yield [turn("d", chance, 2.0 * slow)]


def _line(agents: str) -> list[tuple[str, str]]:
    return [(START, agents[0]), *zip(agents, agents[1:], strict=False), (agents[-1], END_NODE)]


_STAR = [(START, "boss"), ("boss", END_NODE)]
_STAR += [pair for agent in "abc" for pair in (("boss", agent), (agent, "boss"))]
_DIAMOND = [(START, "a"), ("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("d", END_NODE)]

WORKLOADS = {
    "sequential": Workload(_line("abcde"), sequential),
    "branching": Workload([*_DIAMOND, ("d", "a")], branching),
    "parallel": Workload(
        [(START, "a"), ("a", "b"), ("a", "c"), ("a", "d"), ("b+c+d", "e"), ("e", END_NODE)],
        parallel,
    ),
    "supervisor": Workload(_STAR, supervisor),
    "supervisor's rota": Workload(_STAR, rota),
    "group chat": Workload(
        [(START, "a"), *((one, two) for one in "abcde" for two in "abcde" if one != two)],
        group_chat,
        is_open=True,
    ),
    "tool gaps": Workload(_line("abc"), tools),
    "mixed": Workload([(START, "front")], mixed, is_open=True),
    "drift": Workload(_DIAMOND, drift),
}


@dataclass(frozen=True)
class Forecasted:
    """What was forecast at one call."""

    agent: str
    at_s: float
    next: dict[str, dict[str, float]]
    again: dict[str, dict[str, float]]
    due: dict[str, dict[str, Delay]]


class Reliability:
    """How often what was said to be so likely came, by tenths of the likelihood."""

    def __init__(self) -> None:
        self._sums = [[0.0, 0.0, 0.0] for _ in range(BINS)]

    def add(self, chance: float, came: bool) -> None:
        place = self._sums[min(int(chance * BINS), BINS - 1)]
        for slot, value in enumerate((1.0, chance, float(came))):
            place[slot] += value

    def bins(self) -> list[dict[str, float]]:
        return [
            {"count": int(n), "forecast": said / n, "observed": seen / n}
            for n, said, seen in self._sums
            if n
        ]

    def error(self) -> float:
        """By how much a forecast was off, in the mean over all."""
        off = sum(abs(said - seen) for _, said, seen in self._sums)
        return off / max(sum(n for n, _, _ in self._sums), 1.0)


@dataclass
class Scores:
    """Sums of squared errors and counts, by what was forecast, by whom, of what."""

    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: Counter[str] = field(default_factory=Counter)
    again: Reliability = field(default_factory=Reliability)
    alive: Reliability = field(default_factory=Reliability)

    def add(self, name: str, value: float) -> None:
        self.sums[name] += value
        self.counts[name] += 1

    def result(self) -> dict[str, Any]:
        means = {name: self.sums[name] / count for name, count in self.counts.items()}
        return {
            "means": dict(sorted(means.items())),
            "counts": dict(sorted(self.counts.items())),
            "again_reliability": self.again.bins(),
            "again_calibration_error": self.again.error(),
            "alive_reliability": self.alive.bins(),
            "alive_calibration_error": self.alive.error(),
        }


def forecast(workflow: Workflow, agent: str, now_s: float) -> Forecasted:
    """Everything that is said at a call, by what is learned and by the base lines."""
    scene = workflow.scene(agent)
    steps = dict(workflow.hint(agent).forecast.steps)
    habits = workflow.app.timing.habits
    # What the structure alone says: any agent of the nearest step, or the end.
    ahead = [count for count in steps.values() if count]
    near = {name for name, count in steps.items() if count == min(ahead, default=None)} or {END}
    everyone = {*steps, END}
    composed = delays_ahead(workflow.app.graph, steps, habits.turn)
    learned = {name: habits.due(agent, name, scene) for name in steps}
    return Forecasted(
        agent,
        now_s,
        next={
            "learned": habits.chance_next(agent, near, scene),
            "structure": dict.fromkeys(near, 1.0 / len(near)),
            "uniform": dict.fromkeys(everyone, 1.0 / len(everyone)),
        },
        again={
            "learned": habits.chance_again(agent, steps, scene),
            "structure": {
                name: float(count is not None and name != agent) for name, count in steps.items()
            },
            "uniform": dict.fromkeys(steps, 0.5),
        },
        due={
            "learned": {name: delay for name, delay in learned.items() if delay},
            "graph": composed,
        },
    )


def play(workload: Workload, app: App, number: int, runs: int, seed: int) -> list[Forecasted]:
    """One run, with all that was forecast in it."""
    now_s = number * 1e5
    workflow = Workflow(f"run {number}", app, first_seq=0, clock=lambda: now_s)
    made = []
    chance = random.Random(seed * 100_003 + number)
    for step in workload.make(chance, number / runs):
        workflow.plan("", [turn.agent for turn in step])
        begin_s = now_s
        events = []
        for order, turn_ in enumerate(step):
            # Nothing begins at the very same moment as anything else.
            at_s = begin_s + chance.uniform(0.001, 0.005)
            for gap_s in turn_.gaps_s:
                events.append((at_s, order, turn_.agent, True))
                at_s += gap_s
            events.append((at_s, order, turn_.agent, False))
        for now_s, _, agent, is_call in sorted(events):
            if is_call:
                made.append(forecast(workflow, agent, now_s))
            else:
                workflow.finish("", agent)
    workflow.end(resumable=False)
    return made


def score(scores: Scores, made: Sequence[Forecasted]) -> None:
    """Compare all forecasts of one run with what came."""
    for index, said in enumerate(made):
        later = made[index + 1 :]
        came = later[0].agent if later else END
        kind = "end" if came == END else "repeat" if came == said.agent else "switch"
        for by, chances in said.next.items():
            scores.add(f"next, known, {by}", bool(chances))
            if said.next["learned"]:
                error = sum((chance - (name == came)) ** 2 for name, chance in chances.items())
                error += came not in chances
                scores.add(f"next, {kind}, {by}", error)
                scores.add(f"next, all, {by}", error)
                alive = 1.0 - chances.get(END, 0.0)
                scores.add(f"alive, {by}", (alive - bool(later)) ** 2)
                if by == "learned":
                    scores.alive.add(alive, bool(later))
        first_s: dict[str, float] = {}
        for call in later:
            first_s.setdefault(call.agent, call.at_s)
        for by, chances in said.again.items():
            scores.add(f"again, known, {by}", bool(chances))
            for name, chance in chances.items() if said.again["learned"] else ():
                kind = "repeat" if name == said.agent else "switch"
                scores.add(f"again, {kind}, {by}", (chance - (name in first_s)) ** 2)
                if by == "learned":
                    scores.again.add(chance, name in first_s)
        for name, at_s in first_s.items():
            kind = "repeat" if name == said.agent else "switch"
            for by, delays in said.due.items():
                scores.add(f"due, {kind}, known, {by}", name in delays)
                if name in delays:
                    _score_due(scores, f"due, {kind}", by, delays[name], (at_s - said.at_s) * 1e3)


def _score_due(scores: Scores, what: str, by: str, delay: Delay, ms: float) -> None:
    for low, high in ((0.25, 0.75), (0.1, 0.9)):
        inside = delay.quantile(low) <= ms <= delay.quantile(high)
        scores.add(f"{what}, inside {high - low:.0%}, {by}", inside)
    scores.add(f"{what}, within a factor of 2, {by}", ms / 2 <= delay.median + 1 <= 2 * ms + 2)


def measure(workload: Workload, runs: int, warm_up: int, seed: int) -> dict[str, Any]:
    app, scores = workload.app(), Scores()
    for number in range(runs):
        made = play(workload, app, number, runs, seed)
        if number >= warm_up:
            score(scores, made)
    return scores.result()


def show(results: dict[str, dict[str, Any]]) -> None:
    chances = Table(title="Brier scores (lower is better): learned / structure / uniform")
    times = Table(title="Time to the next call: share inside the interval")
    for heading in ("workload", "next", "next, switch", "next, repeat"):
        chances.add_column(heading)
    for heading in ("again, switch", "again, repeat", "alive", "errors: again", "alive"):
        chances.add_column(heading)
    for heading in ("workload", "switch 50%", "80%", "factor 2", "repeat 50%", "80%", "factor 2"):
        times.add_column(heading)
    for heading in ("graph: 50%", "80%", "factor 2"):
        times.add_column(heading)
    for name, result in results.items():
        means = result["means"]

        def three(what: str, means: dict[str, float] = means) -> str:
            by = ("learned", "structure", "uniform")
            return " / ".join(_shown(means.get(f"{what}, {one}"), ".2f") for one in by)

        chances.add_row(
            name,
            *(three(f"next, {kind}") for kind in ("all", *KINDS)),
            *(three(what) for what in ("again, switch", "again, repeat", "alive")),
            f"{result['again_calibration_error']:.3f}",
            f"{result['alive_calibration_error']:.3f}",
        )
        columns = [(kind, "learned") for kind in KINDS] + [("switch", "graph")]
        times.add_row(
            name,
            *(
                _shown(means.get(f"due, {kind}, {measure}, {by}"), ".0%")
                for kind, by in columns
                for measure in ("inside 50%", "inside 80%", "within a factor of 2")
            ),
        )
    Console(width=160).print(chances, times)


KINDS = ("switch", "repeat")


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=400, help="runs of each workload")
    parser.add_argument("--warm-up", type=int, default=20, help="runs that are not scored")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, too")
    options = parser.parse_args()
    results = {
        name: measure(workload, options.runs, options.warm_up, options.seed)
        for name, workload in WORKLOADS.items()
    }
    show(results)
    if options.json:
        about = {"runs": options.runs, "warm_up": options.warm_up, "seed": options.seed}
        options.json.write_text(json.dumps({**about, "workloads": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
