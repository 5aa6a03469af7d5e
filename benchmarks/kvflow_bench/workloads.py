"""What a benchmark's agents send: prompts as token ids, and who calls when. Seeds in, calls out.

A workload plays the adapter's part too: it knows its graph, so each stage carries the forecast
that an adapter would attach.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import islice

from kvflow_agents.errors import ConfigurationError
from kvflow_agents.forecast import Steps
from kvflow_agents.prefix import Tokens
from kvflow_agents.step_graph import Join, StepGraph
from kvflow_bench import adapters
from kvflow_bench.schedule import schedule

# Ids that every model has and that stand for no control token, the tiny model's included.
FIRST_TOKEN = 10
TOKENS = 240

_TOKEN_OF_BYTE = bytes(FIRST_TOKEN + byte % TOKENS for byte in range(256))

Prompt = Tokens


@dataclass(frozen=True, slots=True)
class Parameters:
    """The size of a workload, lengths in tokens. ConfigurationError if out of range."""

    workflows: int = 1
    """How many run at once, each with prompts of its own."""
    agents: int = 10
    """In the cycle; of `peer` the executors, of `branch` the stages."""
    active: int = 2
    """Agents of `simulation` and `active` that call again and again."""
    adapters: int = 0
    """LoRA adapters, dealt out to the agents of all workflows in turn; 0: the base model serves."""
    branches: int = 2
    """Agents that a stage of `branch` picks one of."""
    shared_tokens: int = 0
    """How many of the fixed tokens all agents of a workflow share; of `branch`, of a stage."""
    fixed_tokens: int = 2048
    dynamic_tokens: int = 32
    output_tokens: int = 32
    rounds: int = 3
    """Counted rounds; those that warm up come on top."""
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            lowest = 0 if field.name in ("shared_tokens", "adapters", "seed") else 1
            if getattr(self, field.name) < lowest:
                raise ConfigurationError(f"{field.name} must be at least {lowest}")
        if self.shared_tokens > self.fixed_tokens:
            raise ConfigurationError("shared_tokens must not be more than fixed_tokens")


@dataclass(frozen=True, slots=True)
class Call:
    """One model call: its agent's fixed tokens, then tokens that differ with every call."""

    agent: str
    prompt: Prompt
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """Calls that leave together; the next stage begins when all have been answered."""

    calls: tuple[Call, ...]
    steps: Steps
    """Of every agent of the workflow, as the calls leave."""


@dataclass(frozen=True, slots=True)
class Front:
    """The agents that call in one stage."""

    agents: tuple[str, ...]
    is_counted: bool
    steps: Steps | None = None
    """What is known as they leave; None: what the graph says."""


@dataclass(frozen=True)
class Workflow:
    """One run of an application."""

    number: int
    parameters: Parameters
    graph: StepGraph
    fronts: tuple[Front, ...]
    keeps_history: bool = False
    """Whether a prompt holds everything that its agent was sent before."""

    def stages(self, *, counted: bool) -> Iterator[Stage]:
        """The stages that count, or those before; the same every time."""
        prompts = _Prompts(self)
        with_, steps_of = self._adapters(), cache(self._steps_of)
        for front in self.fronts:
            calls = tuple(
                Call(agent, prompts.next(agent), with_.get(agent)) for agent in front.agents
            )
            if front.is_counted == counted:
                yield Stage(calls, front.steps or steps_of(front.agents))

    def _steps_of(self, agents: tuple[str, ...]) -> Steps:
        return self.graph.outlook(agents).steps

    def _adapters(self) -> dict[str, str]:
        """The adapter of each agent that has one."""
        if not self.parameters.adapters:
            return {}
        agents = sorted({agent for front in self.fronts for agent in front.agents})
        first = self.number * len(agents)
        return {
            agent: adapters.name((first + index) % self.parameters.adapters)
            for index, agent in enumerate(agents)
        }

    def footprint_tokens(self) -> int:
        """What all prompts and answers take together in a cache that never evicts."""
        sizes = self.parameters
        called = Counter(agent for front in self.fronts for agent in front.agents)
        groups = {_group_of(agent) for agent in called}
        fixed_tokens = (
            len(called) * (sizes.fixed_tokens - sizes.shared_tokens)
            + len(groups) * sizes.shared_tokens
        )
        return fixed_tokens + called.total() * (sizes.dynamic_tokens + sizes.output_tokens)


@dataclass(frozen=True)
class Workload:
    """Workflows that run at once."""

    name: str
    kind: str
    parameters: Parameters

    def workflows(self) -> list[Workflow]:
        """The workflows, in order of their number; they share no tokens."""
        make = KINDS[self.kind]
        return [make(number, self.parameters) for number in range(self.parameters.workflows)]

    def footprint_tokens(self) -> int:
        """An upper bound of the pool in which everything fits."""
        return sum(workflow.footprint_tokens() for workflow in self.workflows())


def _cycle(number: int, sizes: Parameters) -> Workflow:
    """KVFlow's workflow: agents that call one after another, round by round."""
    ring = [[agent] for agent in _numbered("agent", sizes.agents)]
    return Workflow(number, sizes, _ring_graph(ring), _rounds(ring, sizes))


def _growing(number: int, sizes: Parameters) -> Workflow:
    """The same cycle of agents that keep what they were sent."""
    ring = [[agent] for agent in _numbered("agent", sizes.agents)]
    return Workflow(number, sizes, _ring_graph(ring), _rounds(ring, sizes), keeps_history=True)


def _peer(number: int, sizes: Parameters) -> Workflow:
    """PEER's loop: plan, execute side by side, express, review."""
    ring = [["plan"], _numbered("execute", sizes.agents), ["express"], ["review"]]
    return Workflow(number, sizes, _ring_graph(ring), _rounds(ring, sizes))


def _branch(number: int, sizes: Parameters) -> Workflow:
    """A cycle of stages, each of which picks one of its agents when it is reached."""
    branches = range(sizes.branches)
    stages = [
        [f"{stage}/{branch}" for branch in branches] for stage in _numbered("stage", sizes.agents)
    ]
    chooser = random.Random(f"branch/{sizes.seed}/{number}")
    # Warms up every agent once.
    fronts = [Front((agents[branch],), False) for branch in branches for agents in stages]
    fronts += [
        Front((chooser.choice(agents),), True) for _ in range(sizes.rounds) for agents in stages
    ]
    edges = [
        Join(frozenset({source}), target)
        for agents, following in zip(stages, [*stages[1:], stages[0]], strict=True)
        for source in agents
        for target in following
    ]
    return Workflow(number, sizes, StepGraph(edges), tuple(fronts))


def _simulation(number: int, sizes: Parameters) -> Workflow:
    """A simulation in which some agents are active, and the others call now and then."""
    return _simulated(number, sizes, sizes.agents)


def _active(number: int, sizes: Parameters) -> Workflow:
    """The same while the others stay silent: they have called once before."""
    return _simulated(number, sizes, min(sizes.active, sizes.agents))


def _simulated(number: int, sizes: Parameters, callers: int) -> Workflow:
    first = number * sizes.agents
    names = [f"agent{first + index:03}" for index in range(sizes.agents)]
    # The active ones warm up last, as they would have called last.
    ring = [[agent] for agent in reversed(names)]
    graph = _ring_graph(ring)
    calls = schedule(names[:callers], sizes.active, seed=f"simulation/{sizes.seed}/{number}")
    fronts = [Front(tuple(stage), False) for stage in ring]
    fronts += [
        Front((agent,), True, steps) for agent, steps in islice(calls, sizes.rounds * sizes.agents)
    ]
    return Workflow(number, sizes, graph, tuple(fronts))


KINDS: Mapping[str, Callable[[int, Parameters], Workflow]] = {
    "cycle": _cycle,
    "peer": _peer,
    "branch": _branch,
    "growing": _growing,
    "simulation": _simulation,
    "active": _active,
}


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}{number:02}" for number in range(count)]


def _ring_graph(ring: Sequence[Sequence[str]]) -> StepGraph:
    """Each stage follows once all of the stage before have run, the first after the last."""
    return StepGraph(
        Join(frozenset(before), target)
        for before, stage in zip([ring[-1], *ring[:-1]], ring, strict=True)
        for target in stage
    )


def _rounds(ring: Sequence[Sequence[str]], sizes: Parameters) -> tuple[Front, ...]:
    """One round that warms up, then the counted ones."""
    return tuple(
        Front(tuple(stage), is_counted=number > 0)
        for number in range(1 + sizes.rounds)
        for stage in ring
    )


def _group_of(agent: str) -> str:
    """Who shares tokens: the agents of a stage of `branch`, else all of a workflow."""
    return agent.rpartition("/")[0]


class _Prompts:
    """The prompts of one workflow's agents, call by call."""

    def __init__(self, workflow: Workflow) -> None:
        self._sizes = workflow.parameters
        self._number = workflow.number
        self._keeps_history = workflow.keeps_history
        agents = dict.fromkeys(agent for front in workflow.fronts for agent in front.agents)
        groups = list(dict.fromkeys(map(_group_of, agents)))
        own_tokens = self._sizes.fixed_tokens - self._sizes.shared_tokens
        shared = [
            self._tokens("shared", self._number * len(groups) + index, self._sizes.shared_tokens)
            for index in range(len(groups))
        ]
        self._fixed: dict[str, Prompt] = {
            agent: shared[groups.index(_group_of(agent))]
            + self._tokens("own", self._number * len(agents) + index, own_tokens)
            for index, agent in enumerate(agents)
        }
        self._calls = 0

    def next(self, agent: str) -> Prompt:
        """The prompt of the agent's next call."""
        prompt = self._fixed[agent] + self._tokens(
            "dynamic", self._calls, self._sizes.dynamic_tokens
        )
        self._calls += 1
        if self._keeps_history:
            self._fixed[agent] = prompt
        return prompt

    def _tokens(self, kind: str, serial: int, count: int) -> Prompt:
        """Seeded tokens that begin with a serial number: two segments of a kind differ at once."""
        seed = f"{self._sizes.seed}/{self._number}/{kind}/{serial}"
        serial_number = bytes((serial % TOKENS, serial // TOKENS % TOKENS))
        rest = random.Random(seed).randbytes(max(count - len(serial_number), 0))
        return Prompt("q", [*(serial_number + rest)[:count].translate(_TOKEN_OF_BYTE)])
