"""What a server remembers of workflows and applications, and what it forgets first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Generic

from kvflow_agents.app_prompts import AppPrompts
from kvflow_agents.claims import N
from kvflow_agents.known_workflow import KnownAgent, KnownWorkflow


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is remembered. Beyond it the workflow that was silent longest is forgotten."""

    most_workflows: int = 4096
    most_agents: int = 65_536
    most_tokens: int = 8_000_000
    """Of all remembered prompts together, at 8 bytes a token."""
    most_agents_told: int = 1_000_000
    """Named by all forecasts together."""


@dataclass(frozen=True, slots=True)
class Forgotten(Generic[N]):
    """Agents that were forgotten, and their workflow if it was forgotten too."""

    agents: dict[str, KnownAgent[N]]
    workflow: KnownWorkflow[N] | None = None


class WorkflowMemory(Generic[N]):
    """The workflows that have not ended, and what their applications have shown.

    Whoever changes what a workflow or an agent remembers does so within `learning` or
    `learning_of`, which keep the count, and then lets go of what `pop_excess` yields.
    """

    def __init__(self, limits: Limits) -> None:
        self.app_prompts = AppPrompts()
        self._limits = limits
        self._agents = 0
        self._agents_told = 0
        self._tokens = 0
        # Both in the order of the last hint.
        self._live: OrderedDict[str, KnownWorkflow[N]] = OrderedDict()
        self._dormant: OrderedDict[str, KnownWorkflow[N]] = OrderedDict()
        self._ended: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._live) + len(self._dormant)

    def __iter__(self) -> Iterator[KnownWorkflow[N]]:
        return chain(self._live.values(), self._dormant.values())

    @property
    def agents(self) -> int:
        """Of workflows and of applications."""
        return self._agents + self.app_prompts.agents

    @property
    def tokens_kept(self) -> int:
        """Of the prompts of all of them."""
        return self._tokens + self.app_prompts.tokens_kept

    def find(self, name: str) -> KnownWorkflow[N] | None:
        """A workflow, if it is known and has not ended."""
        return self._live.get(name) or self._dormant.get(name)

    def has_ended(self, name: str, seq: int) -> bool:
        """Whether a workflow has ended with this message or a later one."""
        ended_seq = self._ended.get(name)
        return ended_seq is not None and seq <= ended_seq

    @contextmanager
    def learning(self, workflow: KnownWorkflow[N]) -> Iterator[None]:
        """A forecast is taken in meanwhile."""
        before = len(workflow.expected.steps)
        yield
        self._agents_told += len(workflow.expected.steps) - before

    @contextmanager
    def learning_of(self, workflow: KnownWorkflow[N], agent: KnownAgent[N]) -> Iterator[None]:
        """What an agent of a workflow has said or heard is taken in meanwhile."""
        before = agent.history.tokens_kept
        yield
        self._count_tokens(workflow, agent.history.tokens_kept - before)

    def keep(self, workflow: KnownWorkflow[N], at_tokens: int) -> None:
        """A workflow is heard, when so many tokens have been evicted: it is forgotten last."""
        workflow.heard_at_tokens, workflow.is_dormant = at_tokens, False
        self._dormant.pop(workflow.name, None)
        self._live[workflow.name] = workflow
        self._live.move_to_end(workflow.name)

    def keep_agent(self, workflow: KnownWorkflow[N], name: str, agent: KnownAgent[N]) -> None:
        """An agent is heard, perhaps for the first time: of its workflow it is forgotten last."""
        if workflow.agents.pop(name, None) is None:
            self._agents += 1
            self._count_tokens(workflow, agent.history.tokens_kept)
        workflow.agents[name] = agent

    def pop_expired(self, oldest_tokens: int) -> Iterator[KnownWorkflow[N]]:
        """Those not heard since so many tokens had been evicted; they are dormant from now on."""
        while self._live:
            name, workflow = next(iter(self._live.items()))
            if workflow.heard_at_tokens >= oldest_tokens:
                return
            workflow.is_dormant = True
            self._dormant[name] = self._live.pop(name)
            yield workflow

    def end(self, name: str, seq: int) -> KnownWorkflow[N] | None:
        """A workflow ends, known or not; older messages of it count no more."""
        self._ended[name] = seq
        self._ended.move_to_end(name)
        if len(self._ended) > self._limits.most_workflows:
            self._ended.popitem(last=False)
        workflow = self._live.pop(name, None) or self._dormant.pop(name, None)
        if workflow is not None:
            self._uncount(workflow)
        return workflow

    def pop_excess(self) -> Iterator[Forgotten[N]]:
        """What goes beyond the limits, silent longest first."""
        limits, apps = self._limits, self.app_prompts
        while len(self) > limits.most_workflows or self._agents_told > limits.most_agents_told:
            yield self._forget_oldest()
        while self.agents > limits.most_agents or self.tokens_kept > limits.most_tokens:
            # The workflow just heard is last in line, but not exempt.
            if self._dormant:
                yield self._forget_oldest()
            elif len(apps) > 1 or not self._live:
                apps.forget_oldest()
            elif len(self) == 1 and (only := next(iter(self))).agents:
                yield Forgotten(self._pop_oldest_agent(only))
            else:
                yield self._forget_oldest()

    def pop_all(self) -> Iterator[Forgotten[N]]:
        """Forget everything, ends too."""
        while len(self):
            yield self._forget_oldest()
        self.app_prompts.clear()
        self._ended.clear()

    def _forget_oldest(self) -> Forgotten[N]:
        _, workflow = (self._dormant or self._live).popitem(last=False)
        self._uncount(workflow)
        return Forgotten(workflow.agents, workflow)

    def _pop_oldest_agent(self, workflow: KnownWorkflow[N]) -> dict[str, KnownAgent[N]]:
        name = next(iter(workflow.agents))
        agent = workflow.agents.pop(name)
        self._agents -= 1
        self._count_tokens(workflow, -agent.history.tokens_kept)
        return {name: agent}

    def _count_tokens(self, workflow: KnownWorkflow[N], change: int) -> None:
        workflow.tokens_kept += change
        self._tokens += change

    def _uncount(self, workflow: KnownWorkflow[N]) -> None:
        self._agents_told -= len(workflow.expected.steps)
        self._agents -= len(workflow.agents)
        self._tokens -= workflow.tokens_kept

    def check(self) -> None:
        """Assert that the books are right; for tests."""
        assert all(not each.is_dormant for each in self._live.values()), "a live one is dormant"
        assert all(each.is_dormant for each in self._dormant.values()), "a dormant one is live"
        agents = [agent for workflow in self for agent in workflow.agents.values()]
        assert self._agents == len(agents), "agents are off"
        for workflow in self:
            kept = sum(agent.history.tokens_kept for agent in workflow.agents.values())
            assert workflow.tokens_kept == kept, "a workflow's tokens are off"
        kept = sum(agent.history.tokens_kept for agent in agents)
        assert self._tokens == kept, "tokens are off"
        told = sum(len(workflow.expected.steps) for workflow in self)
        assert self._agents_told == told, "agents told of are off"
        self.app_prompts.check()
