"""Agents' claims on the prefix tree: on which prefixes, and when those are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic

from kvflow_agents.alarms import Alarms
from kvflow_agents.app_prompts import Namespace
from kvflow_agents.claims import Claim, ClaimLedger, Key, N
from kvflow_agents.known_workflow import KnownAgent, KnownWorkflow
from kvflow_agents.prefix import Tokens
from kvflow_agents.reuse import Reuse
from kvflow_agents.tenants import Tenant

# Of one message: where thousands are late, each message looks at a few of them.
MOST_OVERDUE = 32
# A time that has moved by less than this part of the wait is taken for the same: with every call
# all agents' times move a little, and to move a claim costs a look at each of its nodes.
SAME = 1 / 16

MakeKey = Callable[[Tokens, int, Namespace], Key]
"""The key of the first tokens of a sequence in a namespace, cut to whole pages."""


class AgentClaims(Generic[N]):
    """Lets the claims of one tenant's agents say what is known of their next calls.

    With `reuse` claims are ordered by when their agents will call, on the clock of the messages;
    without by steps.
    """

    def __init__(
        self,
        ledger: ClaimLedger[N],
        *,
        make_key: MakeKey,
        cut: Callable[[Key], None],
        reuse: Reuse | None,
        tenant: Tenant,
    ) -> None:
        """`cut` makes a node of the tree end where a key ends, if the tree holds the key."""
        self._ledger = ledger
        self._make_key = make_key
        self._cut = cut
        self._clock = reuse.clock if reuse is not None and reuse.order == "time" else None
        self._tenant = tenant
        self.is_heeded = True
        """Whether forecasts count; whoever changes it lets every claim `follow`."""
        self._alarms: Alarms[tuple[KnownWorkflow[N], str], KnownAgent[N]] = Alarms()

    @property
    def now_ms(self) -> int | None:
        """The clock of the claims' distances; None where they are so many steps."""
        return None if self._clock is None else self._clock.now_ms

    def place(self, workflow: KnownWorkflow[N], name: str, namespace: Namespace) -> None:
        """Claim what an agent's next prompt is taken to begin with, instead of what it was."""
        agent = workflow.agents[name]
        tokens = agent.history.tokens
        assert tokens is not None, "an agent without tokens has no prefix"
        self._remove(agent)
        holder = workflow.name, name
        key = self._make_key(tokens, agent.history.prefix_tokens, namespace)
        agent.claim = self._ledger.place(key, None, tenant=self._tenant, holder=holder)
        agent.other = None
        other_tokens = agent.history.other_tokens
        if self._clock is not None and other_tokens is not None:
            other = self._make_key(tokens, other_tokens, namespace)
            agent.other = self._ledger.place(other, None, tenant=self._tenant, holder=holder)
        self.follow(workflow, name)

    def place_cached(self, workflow: KnownWorkflow[N], name: str, namespace: Namespace) -> None:
        """The same of prefixes that are in the tree: they are claimed to the token."""
        self.place(workflow, name, namespace)
        for claim in workflow.agents[name].claims:
            if claim.depth_tokens < len(claim.key):
                self._cut(claim.key)

    def follow(self, workflow: KnownWorkflow[N], name: str) -> None:
        """Let an agent's claims say what is known of its next call by now."""
        agent = workflow.agents[name]
        counts = self.is_heeded and not workflow.is_dormant
        growth = agent.history.growth(after_pause=workflow.calls_after_pause(name))
        chance, other_chance = (growth, 1.0) if agent.history.grows else (1.0, growth)
        if agent.claim is not None:
            due_ms = self._due_ms(workflow, name, agent.claim, chance) if counts else None
            if due_ms is not None:
                self._alarms.set((workflow, name), agent, due_ms)
            self._ledger.set_steps(agent.claim, workflow.steps_of(name) if counts else None, due_ms)
        if agent.other is not None:
            due_ms = self._due_ms(workflow, name, agent.other, other_chance) if counts else None
            self._ledger.set_steps(agent.other, None, due_ms)

    def follow_overdue(self) -> None:
        """Expect later whoever has not called when it was due."""
        if self._clock is not None:
            for (workflow, name), agent in self._alarms.rung(self._clock.now_ms, MOST_OVERDUE):
                # Who has gone may still wait to be seen off.
                if workflow.agents.get(name) is agent:
                    self.follow(workflow, name)

    def give_up(self, agent: KnownAgent[N]) -> None:
        """An agent will not call again: what only its workflow has used is spent."""
        self._alarms.take_back(agent)
        self._remove(agent)

    def forget(self, agent: KnownAgent[N]) -> None:
        """An agent is no longer remembered. It may well go on: nothing is known to be spent."""
        for claim in agent.claims:
            self._ledger.use(claim.node, None)
        self.give_up(agent)

    def _due_ms(
        self, workflow: KnownWorkflow[N], name: str, claim: Claim[N], chance: float
    ) -> int | None:
        if self._clock is None:
            return None
        now_ms, before_ms = self._clock.now_ms, claim.distance
        due_ms = workflow.due_ms(name, chance, now_ms)
        if due_ms is None or before_ms is None:
            return due_ms
        return before_ms if abs(due_ms - before_ms) < SAME * (due_ms - now_ms) else due_ms

    def _remove(self, agent: KnownAgent[N]) -> None:
        for claim in agent.claims:
            self._ledger.remove(claim)

    def check(self, workflow: KnownWorkflow[N], names: Iterable[str]) -> None:
        """Assert that the claims of these agents say what is known; for tests."""
        for name in names:
            agent = workflow.agents[name]
            counts = self.is_heeded and not workflow.is_dormant
            steps = workflow.steps_of(name) if counts else None
            assert agent.claim is None or agent.claim.steps == steps, "a claim's steps are off"
