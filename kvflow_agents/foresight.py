"""What a server knows of the workflows it serves: whose prefix is where, and when it is needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, count, islice, takewhile
from typing import Generic, Literal

from kvflow_agents.adapters import Adapter, AdapterLedger
from kvflow_agents.alarms import Alarms
from kvflow_agents.app_prompts import AppPrompts, Namespace
from kvflow_agents.claims import Claim, ClaimLedger, Key, N
from kvflow_agents.expectations import Expectations
from kvflow_agents.hints import Hint
from kvflow_agents.known_workflow import KnownAgent, KnownWorkflow
from kvflow_agents.prefetch import PrefetchQueue
from kvflow_agents.prefix import PrefixHistory, Tokens
from kvflow_agents.reuse import Reuse
from kvflow_agents.tenants import Tenant
from kvflow_agents.track_record import came_true

Outcome = Literal["accepted", "stale", "ended"]

# Among the next agents of a workflow, while looking for prefixes to load.
MOST_LOOKED_AT = 256
# Of one message: where thousands are late, each message looks at a few of them.
MOST_OVERDUE = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is remembered. Beyond it the workflow that was silent longest is forgotten."""

    most_workflows: int = 4096
    most_agents: int = 65_536
    most_tokens: int = 8_000_000
    """Of all remembered prompts together, at 8 bytes a token."""
    most_agents_told: int = 1_000_000
    """Named by all forecasts together."""


MakeKey = Callable[[Tokens, int, Namespace], Key]
"""The key of the first tokens of a sequence in a namespace, cut to whole pages."""


class Foresight(Generic[N]):
    """Turns hints and prompts into claims on the tree. Pure: no clock, no randomness, no I/O.

    With `reuse` claims are ordered by when their agents will call, on the clock of the messages;
    without by steps. Age is measured in `turn_over`: the tokens that the cache has evicted. A
    forecast that was not renewed while `lifetime_tokens` were evicted no longer counts; without
    pressure none is lost.
    """

    def __init__(
        self,
        ledger: ClaimLedger[N],
        *,
        make_key: MakeKey,
        cut: Callable[[Key], None],
        lifetime_tokens: int,
        prefetch: PrefetchQueue[N] | None = None,
        reuse: Reuse | None = None,
        adapters: AdapterLedger | None = None,
        limits: Limits | None = None,
        tenant: Tenant = None,
    ) -> None:
        """`cut` makes a node of the tree end where a key ends, if the tree holds the key.

        `prefetch` is told whose prefixes are needed next, `adapters` when agents run. All hints
        are of one `tenant`, with names that are `scoped`.
        """
        self._ledger = ledger
        self._make_key = make_key
        self._cut = cut
        self._lifetime_tokens = lifetime_tokens
        self._prefetch = prefetch
        self._reuse = reuse
        self.adapters = adapters
        self._limits = limits or Limits()
        self._tenant = tenant
        self._evicted_tokens = 0
        self._remembered_agents = 0
        self._agents_told = 0
        self._remembered_tokens = 0
        # Both in the order of the last hint; the dormant ones have not been heard for a lifetime.
        self._live: OrderedDict[str, KnownWorkflow[N]] = OrderedDict()
        self._dormant: OrderedDict[str, KnownWorkflow[N]] = OrderedDict()
        self._ended: OrderedDict[str, int] = OrderedDict()
        self._distrusted: set[str] = set()
        self._is_heeded = True
        self._app_prompts = AppPrompts()
        self._alarms: Alarms[tuple[KnownWorkflow[N], str], KnownAgent[N]] = Alarms()

    @property
    def workflows(self) -> int:
        """How many workflows are known and have not ended."""
        return len(self._live) + len(self._dormant)

    @property
    def distrusted(self) -> int:
        """How many workflows are disregarded because their forecasts did not come true."""
        return len(self._distrusted)

    def is_trusted(self, workflow: str) -> bool:
        """Whether a workflow's forecasts have influence, as far as they came true."""
        return self._is_heeded and workflow not in self._distrusted

    def heed(self, is_heeded: bool) -> None:
        """Let forecasts count, or none of them."""
        self._is_heeded = is_heeded
        if is_heeded:
            self._ledger.believe_tenant(self._tenant)
        else:
            self._ledger.doubt_tenant(self._tenant)
        for workflow in self._live.values():
            if not is_heeded:
                self._want_no_more(workflow)
            for name, agent in workflow.agents.items():
                self._set_steps(workflow, name, agent)

    @property
    def agents(self) -> int:
        """How many prefixes are remembered: of agents of workflows and of applications."""
        return self._remembered_agents + self._app_prompts.agents

    def claim_of(self, workflow: str, agent: str) -> Claim[N] | None:
        """An agent's claim on its prefix, if it has one."""
        found = self._find(workflow)
        known = None if found is None else found.agents.get(agent)
        return None if known is None else known.claim

    def expected(self, workflow: str) -> Expectations:
        """What a workflow has told of its agents; nothing if it is unknown or has ended."""
        found = self._find(workflow)
        return Expectations() if found is None else found.expected

    def was_foretold(self, caller: Hint) -> bool | None:
        """Whether a caller, not heard yet, was to come next; None if nothing was said of it."""
        workflow = self._find(caller.workflow)
        if workflow is None or caller.agent is None:
            return None
        return _was_foretold(workflow, caller.agent)

    def prefix_of(self, workflow: str, agent: str) -> Tokens | None:
        """What an agent's next prompt is taken to begin with; None if nothing is known."""
        found = self._find(workflow)
        known = None if found is None else found.agents.get(agent)
        if known is None or known.history.tokens is None:
            return None
        return known.history.tokens[: known.history.prefix_tokens]

    def hear(self, hint: Hint) -> Outcome:
        """Take a forecast in, unless a newer one was heard or its workflow has ended since."""
        seq = hint.forecast.seq
        if seq <= self._ended.get(hint.workflow, -1):
            return "ended"
        workflow = self._find(hint.workflow)
        if hint.forecast.done:
            if workflow is not None and seq <= workflow.expected.seq:
                return "stale"
            self._end(hint)
            return "accepted"
        if workflow is None:
            workflow = KnownWorkflow(hint.workflow, hint.app, self._evicted_tokens)
        expected = workflow.expected
        steps_said = None if hint.agent is None else expected.steps.get(hint.agent)
        was_right = None if hint.agent is None else _was_foretold(workflow, hint.agent)
        agents_told = len(expected.steps)
        told = expected.take_in(hint.forecast)
        if told is None:
            return "stale"
        self._agents_told += len(expected.steps) - agents_told
        workflow.is_paused = hint.agent is None and not hint.forecast.changes
        if workflow.is_paused:
            workflow.pauses += 1
            for agent in workflow.agents.values():
                agent.promise.drop()
        if self._reuse is not None:
            self._reuse.clock.tell(hint.at_ms)
            self._look_at_overdue()
            workflow.heard_ms = self._reuse.clock.now_ms
            if hint.agent is not None:
                workflow.note_call(self._reuse.clock.now_ms, steps_said)
                if hint.agent in workflow.agents:
                    known = workflow.agents[hint.agent]
                    for promise in (known.promise, known.comeback):
                        promise.keep(self._reuse.clock.now_ms, workflow.step_ms)
        trust_has_changed = self._note_call(workflow, was_right)
        if trust_has_changed:
            told = [*workflow.agents, *expected.steps, *told]
        self._renew(workflow, told, hint.agent)
        self._want(workflow, caller=hint.agent)
        return "accepted"

    def called_with(self, caller: Hint, adapter: Adapter) -> None:
        """A hinted request, heard before, asks for a LoRA adapter, or for the base model."""
        workflow = self._find(caller.workflow)
        if self.adapters is not None and workflow is not None and caller.agent is not None:
            steps = workflow.steps_of(caller.agent) if workflow.name in self._live else None
            self.adapters.called(workflow.name, workflow.app, caller.agent, adapter, steps)

    def prompt_cached(self, caller: Hint, prompt: Tokens, namespace: Namespace, leaf: N) -> None:
        """A hinted request's whole prompt is in the tree, `leaf` at its end."""
        self._ledger.use(leaf, caller.workflow)
        workflow = self._find(caller.workflow)
        if workflow is None or caller.agent is None:
            return
        agent = workflow.agents.get(caller.agent)
        if agent is None:
            agent = KnownAgent(PrefixHistory())
            self._remembered_agents += 1
        else:
            del workflow.agents[caller.agent]
        workflow.agents[caller.agent] = agent
        self._remembered_tokens -= agent.history.tokens_kept
        agent.history.see_prompt(prompt, after_pause=agent.pauses != workflow.pauses)
        agent.pauses = workflow.pauses
        self._remembered_tokens += agent.history.tokens_kept
        if workflow.app is not None:
            self._app_prompts.learn(workflow.app, caller.agent, agent.history, prompt, namespace)
        self._claim_cached(workflow, caller.agent, agent, namespace)
        self._forget_excess()

    def answer_cached(
        self, caller: Hint, prompt_and_answer: Tokens, namespace: Namespace, leaf: N
    ) -> None:
        """A hinted request has finished; its prompt and answer are in the tree."""
        self._ledger.use(leaf, caller.workflow)
        workflow = self._find(caller.workflow)
        agent = workflow.agents.get(caller.agent) if workflow and caller.agent else None
        if workflow is None or agent is None or caller.agent is None:
            return
        before = agent.history.prefix_tokens, agent.history.other_tokens
        self._remembered_tokens -= agent.history.tokens_kept
        agent.history.see_answer(prompt_and_answer)
        self._remembered_tokens += agent.history.tokens_kept
        if (agent.history.prefix_tokens, agent.history.other_tokens) != before:
            self._claim_cached(workflow, caller.agent, agent, namespace)
        self._forget_excess()

    def turn_over(self, evicted_tokens: int) -> None:
        """The cache has evicted tokens: time passes, and silent workflows lose their forecast."""
        self._evicted_tokens += evicted_tokens
        oldest_valid = self._evicted_tokens - self._lifetime_tokens
        while self._live:
            name, workflow = next(iter(self._live.items()))
            if workflow.heard_at >= oldest_valid:
                break
            del self._live[name]
            self._dormant[name] = workflow
            self._want_no_more(workflow)
            if self.adapters is not None:
                self.adapters.forget(name)
            for agent in workflow.agents.values():
                for claim in agent.claims:
                    self._ledger.set_steps(claim, None)

    def forget_all(self) -> None:
        """Give every claim up, as if nothing had been heard."""
        for known in (self._live, self._dormant):
            while known:
                self._forget(known.popitem(last=False)[1])
        self._app_prompts.clear()
        self._ended.clear()
        self._ledger.believe_tenant(self._tenant)

    def _set_steps(self, workflow: KnownWorkflow[N], name: str, agent: KnownAgent[N]) -> None:
        """Let an agent's claims say what is known of its next call."""
        steps = workflow.steps_of(name) if self._is_heeded else None
        is_timed = self._is_timed and self._is_heeded
        growth = agent.history.growth(after_pause=workflow.is_paused)
        chance, other_chance = (growth, 1.0) if agent.history.grows else (1.0, growth)
        if agent.claim is not None:
            due_ms = workflow.due_ms(name, chance, self._now_ms) if is_timed else None
            if due_ms is not None:
                self._alarms.set((workflow, name), agent, due_ms)
            self._ledger.set_steps(agent.claim, steps, due_ms)
        if agent.other is not None:
            due_ms = workflow.due_ms(name, other_chance, self._now_ms) if is_timed else None
            self._ledger.set_steps(agent.other, None, due_ms)

    def _look_at_overdue(self) -> None:
        """Expect later whoever has not called when it was due."""
        if self._is_timed:
            for (workflow, name), agent in self._alarms.rung(self._now_ms, MOST_OVERDUE):
                if workflow.name in self._live:
                    self._set_steps(workflow, name, agent)

    @property
    def _now_ms(self) -> int:
        return 0 if self._reuse is None else self._reuse.clock.now_ms

    @property
    def _is_timed(self) -> bool:
        return self._reuse is not None and self._reuse.order == "time"

    def _find(self, name: str) -> KnownWorkflow[N] | None:
        return self._live.get(name) or self._dormant.get(name)

    def _note_call(self, workflow: KnownWorkflow[N], was_right: bool | None) -> bool:
        """Whether the workflow is trusted now and was not before, or the other way round."""
        was_trusted = workflow.record.is_good
        workflow.record.note_call(was_right)
        if workflow.record.is_good:
            self._distrusted.discard(workflow.name)
            self._ledger.believe(workflow.name)
        else:
            self._distrusted.add(workflow.name)
            self._ledger.doubt(workflow.name)
        return workflow.record.is_good != was_trusted

    def _renew(self, workflow: KnownWorkflow[N], told: Iterable[str], caller: str | None) -> None:
        if workflow.name in self._dormant:
            # What was told before it fell silent counts again.
            told = [*workflow.agents, *workflow.expected.steps, *told]
        workflow.heard_at = self._evicted_tokens
        self._dormant.pop(workflow.name, None)
        self._live[workflow.name] = workflow
        self._live.move_to_end(workflow.name)
        for name in told:
            agent = workflow.agents.get(name)
            if agent is not None:
                said_ms = workflow.wait_ms(name)
                # Of the caller steps tell of this call, a time of its next.
                if said_ms is None:
                    agent.comeback.make(workflow.heard_ms, workflow.step_ms, workflow.step_ms)
                elif name != caller or name in workflow.expected.due_ms:
                    in_steps = name not in workflow.expected.due_ms
                    step_ms = workflow.step_ms if in_steps else None
                    agent.promise.make(workflow.heard_ms, said_ms, step_ms)
                self._set_steps(workflow, name, agent)
        if self.adapters is not None:
            heeded = self._is_heeded
            steps = {name: workflow.steps_of(name) if heeded else None for name in told}
            self.adapters.told(workflow.name, workflow.app, steps)
        self._expect_like_other_runs(workflow, told)
        self._forget_excess()

    def _want(self, workflow: KnownWorkflow[N], caller: str | None) -> None:
        """Let the next agents' prefixes be loaded; the caller's own request asks for its own."""
        if self._prefetch is not None and self._is_heeded and workflow.name in self._live:
            horizon = takewhile(self._prefetch.covers, count())
            near = chain.from_iterable(workflow.expected.at(steps) for steps in horizon)
            others = (name for name in islice(near, MOST_LOOKED_AT) if name != caller)
            agents = (workflow.agents.get(name) for name in others)
            claims = [each.claim for each in agents if each and each.claim is not None]
            self._prefetch.want(workflow.name, claims)

    def _want_no_more(self, workflow: KnownWorkflow[N]) -> None:
        if self._prefetch is not None:
            self._prefetch.forget(workflow.name)

    def _expect_like_other_runs(self, workflow: KnownWorkflow[N], told: Iterable[str]) -> None:
        """Claim for agents yet to call what other runs of the application have shown of them."""
        known = self._app_prompts.of(workflow.app or "")
        if not known:
            return
        steps = workflow.expected.steps
        unknown = [each for each in told if each in steps and each not in workflow.agents]
        for name in dict.fromkeys(unknown):
            shown = known.get(name)
            if shown is not None and shown.runs > 1:
                agent = KnownAgent[N](shown.expected())
                workflow.agents[name] = agent
                self._remembered_agents += 1
                self._remembered_tokens += agent.history.tokens_kept
                self._claim(workflow, name, agent, shown.namespace)

    def _claim_cached(
        self, workflow: KnownWorkflow[N], name: str, agent: KnownAgent[N], namespace: Namespace
    ) -> None:
        """Claim prefixes that are in the tree, to the token."""
        self._claim(workflow, name, agent, namespace)
        for claim in agent.claims:
            if claim.depth_tokens < len(claim.key):
                self._cut(claim.key)

    def _claim(
        self, workflow: KnownWorkflow[N], name: str, agent: KnownAgent[N], namespace: Namespace
    ) -> None:
        tokens = agent.history.tokens
        assert tokens is not None, "an agent without tokens has no prefix"
        for claim in agent.claims:
            self._ledger.remove(claim)
        key = self._make_key(tokens, agent.history.prefix_tokens, namespace)
        holder = workflow.name, name
        agent.claim = self._ledger.place(key, None, tenant=self._tenant, holder=holder)
        agent.other = None
        other_tokens = agent.history.other_tokens
        if self._is_timed and other_tokens is not None:
            other = self._make_key(tokens, other_tokens, namespace)
            agent.other = self._ledger.place(other, None, tenant=self._tenant, holder=holder)
        # A forecast that has expired stays so until a newer one is heard.
        if workflow.name in self._live:
            self._set_steps(workflow, name, agent)

    def _end(self, hint: Hint) -> None:
        workflow = self._live.pop(hint.workflow, None) or self._dormant.pop(hint.workflow, None)
        if workflow is not None:
            self._give_up(workflow)
        self._ended[hint.workflow] = hint.forecast.seq
        self._ended.move_to_end(hint.workflow)
        while len(self._ended) > self._limits.most_workflows:
            self._ended.popitem(last=False)

    def _give_up(self, workflow: KnownWorkflow[N]) -> None:
        self._want_no_more(workflow)
        if self.adapters is not None:
            self.adapters.forget(workflow.name)
        self._distrusted.discard(workflow.name)
        self._agents_told -= len(workflow.expected.steps)
        for agent in workflow.agents.values():
            self._give_up_agent(agent)

    def _give_up_agent(self, agent: KnownAgent[N]) -> None:
        self._remembered_agents -= 1
        self._remembered_tokens -= agent.history.tokens_kept
        self._alarms.take_back(agent)
        for claim in agent.claims:
            self._ledger.remove(claim)

    def _forget_excess(self) -> None:
        while (
            self.workflows > self._limits.most_workflows
            or self._agents_told > self._limits.most_agents_told
        ):
            self._forget((self._dormant or self._live).popitem(last=False)[1])
        while self._is_over_limits():
            # Whoever is heard right now comes last of its kind, but is no exception.
            if self._dormant:
                self._forget(self._dormant.popitem(last=False)[1])
            elif len(self._app_prompts) > 1 or not self._live:
                self._app_prompts.forget_oldest()
            elif len(self._live) == 1 and (agents := next(iter(self._live.values())).agents):
                self._forget_agent(agents.pop(next(iter(agents))))
            else:
                self._forget(self._live.popitem(last=False)[1])

    def _forget(self, workflow: KnownWorkflow[N]) -> None:
        for agent in workflow.agents.values():
            self._forget_agent(agent)
        workflow.agents.clear()
        self._give_up(workflow)

    def _forget_agent(self, agent: KnownAgent[N]) -> None:
        for claim in agent.claims:
            # It may well go on: what it used is not known to be spent.
            self._ledger.use(claim.node, None)
        self._give_up_agent(agent)

    def _is_over_limits(self) -> bool:
        return (
            self._remembered_agents + self._app_prompts.agents > self._limits.most_agents
            or self._remembered_tokens + self._app_prompts.tokens_kept > self._limits.most_tokens
        )

    def check(self) -> None:
        """Assert that the books are right; for tests."""
        workflows = (*self._live.values(), *self._dormant.values())
        distrusted = {each.name for each in workflows if not each.record.is_good}
        assert self._distrusted == distrusted, "distrusted workflows are off"
        agents = [agent for workflow in workflows for agent in workflow.agents.values()]
        assert self._remembered_agents == len(agents), "agents are off"
        kept = sum(agent.history.tokens_kept for agent in agents)
        assert self._remembered_tokens == kept, "tokens are off"
        told = sum(len(workflow.expected.steps) for workflow in workflows)
        assert self._agents_told == told, "agents told of are off"
        for workflow in workflows:
            for name, agent in workflow.agents.items():
                counts = self._is_heeded and workflow.name in self._live
                steps = workflow.steps_of(name) if counts else None
                assert agent.claim is None or agent.claim.steps == steps, "a claim's steps are off"
        self._app_prompts.check()
        self._ledger.check()


def _was_foretold(workflow: KnownWorkflow[N], agent: str) -> bool | None:
    is_known = workflow.expected.steps.get(agent) is not None
    return came_true(agent, workflow.expected) if is_known or not workflow.is_paused else None
