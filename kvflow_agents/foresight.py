"""What a server knows of the workflows it serves: hints and prompts in, claims out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain, count, islice, takewhile
from typing import Generic, Literal, NamedTuple

from kvflow_agents.agent_claims import AgentClaims, MakeKey
from kvflow_agents.app_prompts import Namespace
from kvflow_agents.backlog import Backlog
from kvflow_agents.call_receipt import Doubt, Predicted
from kvflow_agents.claims import AT_ONCE, Claim, ClaimLedger, Key, N
from kvflow_agents.expectations import Expectations
from kvflow_agents.hints import Hint
from kvflow_agents.known_workflow import KnownAgent, KnownWorkflow
from kvflow_agents.lora_ledger import NO_LORAS, Adapter, AdapterLedger
from kvflow_agents.next_callers import NextCallers, due_together
from kvflow_agents.prefetch import PrefetchQueue
from kvflow_agents.prefix import PrefixHistory, Tokens
from kvflow_agents.reuse import Reuse
from kvflow_agents.tenants import Tenant
from kvflow_agents.workflow_memory import Forgotten, Limits, WorkflowMemory

Outcome = Literal["accepted", "stale", "ended"]

# Among the next agents of a workflow, while looking for prefixes to load.
MOST_LOOKED_AT = 256
# Workflows whose forecasts expire in one eviction; others do in the next.
MOST_EXPIRED = 64


class Heard(NamedTuple):
    """What became of a hint, and whether its caller was to come next by what was said before."""

    outcome: Outcome
    was_foretold: bool | None = None
    """None if nothing was said of it, or nobody calls."""
    predicted: Predicted = Predicted()


class Foresight(Generic[N]):
    """Turns hints and prompts into claims on the tree. Pure: no clock, no randomness, no I/O.

    With `reuse` claims are ordered by when their agents will call, on the clock of the messages;
    without by steps. Age is measured in `turn_over`: the tokens that the cache has evicted. A
    forecast that was not renewed while `lifetime_tokens` were evicted no longer counts; without
    pressure none is lost. No call looks at more than a few hundred agents: the nearest of them at
    once, what is left in later messages and in `catch_up`.
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
        self._claims = AgentClaims(ledger, make_key=make_key, cut=cut, reuse=reuse, tenant=tenant)
        self._memory: WorkflowMemory[N] = WorkflowMemory(limits or Limits())
        self._backlog: Backlog[N] = Backlog()
        self._lifetime_tokens = lifetime_tokens
        self._evicted_tokens = 0
        self._prefetch = prefetch
        self._next_callers = NextCallers()
        self._clock = None if reuse is None else reuse.clock
        self.adapters = adapters
        self._tenant = tenant
        self.distrusted = 0
        """How many workflows are disregarded because their forecasts did not come true."""

    @property
    def workflows(self) -> int:
        """How many workflows are known and have not ended."""
        return len(self._memory)

    @property
    def agents(self) -> int:
        """How many prefixes are remembered: of agents of workflows and of applications."""
        return self._memory.agents

    def is_trusted(self, workflow: str) -> bool:
        """Whether a workflow's forecasts have influence, as far as they came true."""
        return self.doubt_of(workflow) is None

    def doubt_of(self, workflow: str) -> Doubt | None:
        """Why a workflow's forecasts have no influence; None if they have."""
        if not self._claims.is_heeded:
            return "guard_tripped"
        known = self._memory.find(workflow)
        return None if known is None or known.record.is_good else "forecasts_failed"

    def claim_of(self, workflow: str, agent: str) -> Claim[N] | None:
        """An agent's claim on its prefix, if it has one."""
        known = self._agent(workflow, agent)
        return None if known is None else known.claim

    def expected(self, workflow: str) -> Expectations:
        """What a workflow has told of its agents; nothing if it is unknown or has ended."""
        known = self._memory.find(workflow)
        return Expectations() if known is None else known.expected

    def prefix_of(self, workflow: str, agent: str) -> Tokens | None:
        """What an agent's next prompt is taken to begin with; None if nothing is known."""
        known = self._agent(workflow, agent)
        if known is None or known.history.tokens is None:
            return None
        return known.history.tokens[: known.history.prefix_tokens]

    def heed(self, is_heeded: bool) -> None:
        """Let forecasts count, or none of them."""
        self._claims.is_heeded = is_heeded
        if is_heeded:
            self._ledger.believe_tenant(self._tenant)
        else:
            self._ledger.doubt_tenant(self._tenant)
        for workflow in self._memory:
            if not is_heeded:
                self._want_no_more(workflow)
            self._backlog.postpone(workflow, [*workflow.agents, *workflow.expected.steps])
        self.catch_up()

    def hear(self, hint: Hint) -> Heard:
        """Take a forecast in, unless a newer one was heard or its workflow has ended since."""
        seq = hint.forecast.seq
        if self._memory.has_ended(hint.workflow, seq):
            return Heard("ended")
        workflow = self._memory.find(hint.workflow)
        if workflow is None:
            workflow = KnownWorkflow(hint.workflow, hint.app, self._evicted_tokens)
        was_foretold = workflow.was_foretold(hint.agent)
        predicted = workflow.predicted(hint)
        if hint.forecast.done:
            if seq <= workflow.expected.seq:
                return Heard("stale")
            self._end(hint)
            self.catch_up()
            return Heard("accepted", was_foretold, predicted)
        with self._memory.learning(workflow):
            told = workflow.take_in(hint)
        if told is None:
            return Heard("stale")
        if self._clock is not None:
            self._clock.tell(hint.at_ms)
            self._claims.follow_overdue()
            told = [*told, *workflow.note_time(self._clock.now_ms, hint, predicted.steps)]
        if self._judge(workflow, was_foretold) or workflow.is_dormant:
            # What was told before counts again, or no more.
            told = [*workflow.agents, *workflow.expected.steps, *told]
        self._renew(workflow, told, hint)
        self._want(workflow, caller=hint.agent)
        self.catch_up()
        return Heard("accepted", was_foretold, predicted)

    def called_with(self, caller: Hint, adapter: Adapter) -> None:
        """A hinted request, heard before, asks for a LoRA adapter, or for the base model."""
        workflow = self._memory.find(caller.workflow)
        if self.adapters is not None and workflow is not None and caller.agent is not None:
            steps = self._heeded_steps(workflow, caller.agent)
            self.adapters.called(workflow.name, workflow.app, caller.agent, adapter, steps)

    def prompt_cached(self, caller: Hint, prompt: Tokens, namespace: Namespace, leaf: N) -> None:
        """A hinted request's whole prompt is in the tree, `leaf` at its end."""
        self._ledger.use(leaf, caller.workflow)
        workflow = self._memory.find(caller.workflow)
        if workflow is None or caller.agent is None:
            return
        agent = workflow.agents.get(caller.agent) or KnownAgent(PrefixHistory())
        self._memory.keep_agent(workflow, caller.agent, agent)
        with self._memory.learning_of(workflow, agent):
            agent.history.see_prompt(prompt, after_pause=agent.pauses != workflow.pauses)
        agent.pauses = workflow.pauses
        if workflow.app is not None:
            shown = self._memory.app_prompts
            shown.learn(workflow.app, caller.agent, agent.history, prompt, namespace)
        self._claims.place_cached(workflow, caller.agent, namespace)
        self._let_go(self._memory.pop_excess())
        self.catch_up()

    def answer_cached(
        self, caller: Hint, prompt_and_answer: Tokens, namespace: Namespace, leaf: N
    ) -> None:
        """A hinted request has finished; its prompt and answer are in the tree."""
        self._ledger.use(leaf, caller.workflow)
        workflow = self._memory.find(caller.workflow)
        agent = workflow.agents.get(caller.agent) if workflow and caller.agent else None
        if workflow is None or agent is None or caller.agent is None:
            return
        before = agent.history.prefix_tokens, agent.history.other_tokens
        with self._memory.learning_of(workflow, agent):
            agent.history.see_answer(prompt_and_answer)
        if (agent.history.prefix_tokens, agent.history.other_tokens) != before:
            self._claims.place_cached(workflow, caller.agent, namespace)
        self._let_go(self._memory.pop_excess())
        self.catch_up()

    def turn_over(self, evicted_tokens: int) -> None:
        """The cache has evicted tokens: time passes, and silent workflows lose their forecast."""
        self._evicted_tokens += evicted_tokens
        expired = self._memory.pop_expired(self._evicted_tokens - self._lifetime_tokens)
        for workflow in islice(expired, MOST_EXPIRED):
            self._plan_no_more(workflow)
            self._backlog.postpone(workflow, workflow.agents)
        if self.is_behind:
            self.catch_up()

    @property
    def is_behind(self) -> bool:
        """Whether there is something left for `catch_up`."""
        return bool(self._backlog)

    def catch_up(self, most: int = AT_ONCE) -> None:
        """Look at agents that were left to later, so many at most."""
        self._ledger.catch_up(most)
        left = most - self._backlog.see_off(most)
        for workflow, names in self._backlog.pop_late(left):
            self._look_at(workflow, names, caller=None)

    def forget_all(self) -> None:
        """Give every claim up, as if nothing had been heard: now, and in `catch_up`."""
        self._let_go(self._memory.pop_all())
        self._ledger.believe_tenant(self._tenant)
        self.catch_up()

    def _agent(self, workflow: str, agent: str) -> KnownAgent[N] | None:
        known = self._memory.find(workflow)
        return None if known is None else known.agents.get(agent)

    def _judge(self, workflow: KnownWorkflow[N], was_foretold: bool | None) -> bool:
        """Whether the workflow is trusted now and was not before, or the other way round."""
        was_trusted = workflow.record.is_good
        workflow.record.note_call(was_foretold)
        if workflow.record.is_good:
            self._ledger.believe(workflow.name)
        else:
            self._ledger.doubt(workflow.name)
        self.distrusted += was_trusted - workflow.record.is_good
        return workflow.record.is_good != was_trusted

    def _renew(self, workflow: KnownWorkflow[N], told: Iterable[str], hint: Hint) -> None:
        self._memory.keep(workflow, self._evicted_tokens)
        names = dict.fromkeys(told)
        if len(names) > AT_ONCE:
            nearest = (name for name, _ in workflow.expected.soonest(AT_ONCE))
            first = dict.fromkeys(name for name in (hint.agent, *nearest) if name in names)
            self._backlog.postpone(workflow, (name for name in names if name not in first))
            names = first
        self._look_at(workflow, names, hint.agent)
        if loras := hint.forecast.loras:
            self._tell_adapters(workflow, loras, loras)

    def _look_at(
        self, workflow: KnownWorkflow[N], names: Collection[str], caller: str | None
    ) -> None:
        """Let these agents' claims say what is known of them by now."""
        for name in names:
            if name in workflow.agents:
                if not workflow.is_dormant:
                    workflow.note_promise(name, caller)
                self._claims.follow(workflow, name)
        if not workflow.is_dormant:
            self._tell_adapters(workflow, names)
        self._expect_like_other_runs(workflow, names)
        self._let_go(self._memory.pop_excess())

    def _tell_adapters(
        self,
        workflow: KnownWorkflow[N],
        names: Iterable[str],
        loras: Mapping[str, str] = NO_LORAS,
    ) -> None:
        if self.adapters is not None:
            steps = {name: self._heeded_steps(workflow, name) for name in names}
            self.adapters.told(workflow.name, workflow.app, steps, loras)

    def _heeded_steps(self, workflow: KnownWorkflow[N], agent: str) -> int | None:
        """In how many steps an agent calls, as far as forecasts count."""
        counts = self._claims.is_heeded and not workflow.is_dormant
        return workflow.steps_of(agent) if counts else None

    def _expect_like_other_runs(self, workflow: KnownWorkflow[N], names: Iterable[str]) -> None:
        """Claim for agents yet to call what other runs of the application have shown of them."""
        known = self._memory.app_prompts.of(workflow.app or "")
        if not known:
            return
        steps = workflow.expected.steps
        unknown = [each for each in names if each in steps and each not in workflow.agents]
        for name in unknown:
            shown = known.get(name)
            if shown is not None and shown.runs > 1:
                self._memory.keep_agent(workflow, name, KnownAgent(shown.expected()))
                self._claims.place(workflow, name, shown.namespace)

    def _want(self, workflow: KnownWorkflow[N], caller: str | None) -> None:
        """Let the next agents' prefixes be loaded; the caller's own request asks for its own."""
        is_kept = self._memory.find(workflow.name) is workflow
        if self._prefetch is not None and self._claims.is_heeded and is_kept:
            horizon = takewhile(self._prefetch.covers, count())
            near = chain.from_iterable(workflow.expected.at(steps) for steps in horizon)
            others = (name for name in islice(near, MOST_LOOKED_AT) if name != caller)
            agents = ((name, workflow.agents.get(name)) for name in others)
            claims = {name: agent.claim for name, agent in agents if agent and agent.claim}
            if (now_ms := self._claims.now_ms) is not None:
                claims = self._likely(workflow, claims, caller, now_ms)
            self._prefetch.want(workflow.name, claims.values())

    def _likely(
        self,
        workflow: KnownWorkflow[N],
        claims: Mapping[str, Claim[N]],
        caller: str | None,
        now_ms: int,
    ) -> dict[str, Claim[N]]:
        """The claims of those at work, and of those who are due next and were called of late."""
        app = workflow.app or workflow.name
        at_work = {name for name, claim in claims.items() if not claim.steps}
        are_next = due_together(
            {
                name: max(claim.distance - now_ms, 1) / claim.steps
                for name, claim in claims.items()
                if claim.steps and claim.distance is not None
            }
        )
        called = set() if caller is None else {caller}
        self._next_callers.judge(
            app, workflow.next_callers, are_next=are_next, at_work=at_work | called
        )
        workflow.next_callers = are_next
        wanted = at_work | {n for n in are_next if self._next_callers.is_likely(app, n)}
        return {name: claim for name, claim in claims.items() if name in wanted}

    def _want_no_more(self, workflow: KnownWorkflow[N]) -> None:
        if self._prefetch is not None:
            self._prefetch.forget(workflow.name)

    def _plan_no_more(self, workflow: KnownWorkflow[N]) -> None:
        self._want_no_more(workflow)
        if self.adapters is not None:
            self.adapters.forget(workflow.name)

    def _end(self, hint: Hint) -> None:
        workflow = self._memory.end(hint.workflow, hint.forecast.seq)
        if workflow is not None:
            app = workflow.app or workflow.name
            self._next_callers.judge(app, workflow.next_callers)
            self._backlog.depart(map(self._claims.give_up, _taken(workflow.agents)))
            self._drop(workflow)

    def _let_go(self, forgotten: Iterable[Forgotten[N]]) -> None:
        for each in forgotten:
            self._backlog.depart(map(self._claims.forget, _taken(each.agents)))
            if each.workflow is not None:
                self._drop(each.workflow)

    def _drop(self, workflow: KnownWorkflow[N]) -> None:
        """A workflow is no longer known."""
        self._backlog.drop(workflow.name)
        self._plan_no_more(workflow)
        if not workflow.record.is_good:
            self.distrusted -= 1
            self._ledger.believe(workflow.name)

    def check(self) -> None:
        """Assert that the books are right; for tests."""
        self._memory.check()
        distrusted = sum(not workflow.record.is_good for workflow in self._memory)
        assert self.distrusted == distrusted, "distrusted workflows are off"
        for workflow in self._memory:
            names = [
                each for each in workflow.agents if not self._backlog.is_late(workflow.name, each)
            ]
            self._claims.check(workflow, names)
        self._ledger.check()


def _taken(agents: dict[str, KnownAgent[N]]) -> Iterator[KnownAgent[N]]:
    """The agents, each freed with its prompts as soon as it has been looked at."""
    while agents:
        yield agents.popitem()[1]
