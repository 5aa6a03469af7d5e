"""What a simulated workflow says with its calls: what will come, what it has learned, or worse."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, get_args

from kvflow_agents import App
from kvflow_agents import Workflow as LiveWorkflow
from kvflow_agents.errors import ConfigurationError
from kvflow_agents.forecast import Forecast, Steps
from kvflow_agents.hints import Hint
from kvflow_agents.trail import Clock
from kvflow_bench.workloads import Stage, Workflow

Hints = Literal["exact", "learned", "absent", "shuffled", "reversed"]
HINTS: tuple[Hints, ...] = get_args(Hints)

Distort = Callable[[Steps, random.Random], Steps]


class Teller(Protocol):
    """One workflow's adapter."""

    def begin(self, stage: Stage) -> None: ...
    def hint(self, agent: str, number: int) -> Hint | None: ...
    def answered(self, agent: str) -> None: ...


class Silent:
    """Says nothing."""

    def begin(self, stage: Stage) -> None: ...

    def hint(self, agent: str, number: int) -> Hint | None:
        return None

    def answered(self, agent: str) -> None: ...


class Told(Silent):
    """Says in how many steps agents call: as the workload knows it, or that distorted."""

    def __init__(self, workflow: Workflow, distort: Distort) -> None:
        self._name, self._app = _name(workflow), workflow.graph.fingerprint()
        self._distort = distort
        self._chance = random.Random(workflow.number)
        self._steps: Steps = {}

    def begin(self, stage: Stage) -> None:
        self._steps = self._distort(stage.steps, self._chance)

    def hint(self, agent: str, number: int) -> Hint | None:
        return Hint(self._name, Forecast(number, self._steps), agent=agent, app=self._app)


class Learned:
    """Says what the core of an adapter does: steps by the graph; times and chances as learned."""

    def __init__(self, workflow: Workflow, app: App, clock: Clock) -> None:
        self._live = LiveWorkflow(_name(workflow), app, first_seq=0, clock=clock)

    def begin(self, stage: Stage) -> None:
        self._live.plan("", [call.agent for call in stage.calls])

    def hint(self, agent: str, number: int) -> Hint | None:
        return self._live.hint(agent)

    def answered(self, agent: str) -> None:
        self._live.finish("", agent)


def named(name: str) -> Hints:
    """The hints of a name. ConfigurationError if there are none."""
    for hints in HINTS:
        if hints == name:
            return hints
    raise ConfigurationError(f"there are no {name!r} hints; there are {', '.join(HINTS)}")


def tellers(hints: Hints, workflows: list[Workflow], clock: Clock) -> list[Teller]:
    """One for each workflow; those of one graph learn together."""
    if hints == "absent":
        return [Silent() for _ in workflows]
    if hints == "learned":
        graphs = {workflow.graph.fingerprint(): workflow.graph for workflow in workflows}
        apps = {name: App(graph, name=name) for name, graph in graphs.items()}
        return [Learned(each, apps[each.graph.fingerprint()], clock) for each in workflows]
    return [Told(workflow, _DISTORTIONS[hints]) for workflow in workflows]


def _shuffled(steps: Steps, chance: random.Random) -> Steps:
    """The right numbers, of the wrong agents."""
    numbers = list(steps.values())
    return dict(zip(steps, chance.sample(numbers, len(numbers)), strict=True))


def _reversed(steps: Steps, _: random.Random) -> Steps:
    """Who is needed first is said to be needed last."""
    most = max((count for count in steps.values() if count is not None), default=0)
    return {agent: None if n is None else most - n for agent, n in steps.items()}


_DISTORTIONS: Mapping[Hints, Distort] = {
    "exact": lambda steps, _: steps,
    "shuffled": _shuffled,
    "reversed": _reversed,
}


def _name(workflow: Workflow) -> str:
    return f"w{workflow.number}"
