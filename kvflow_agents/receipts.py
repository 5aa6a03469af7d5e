"""Receipts: what became of each hinted call, kept by workflow and agent."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from kvflow_agents.call_receipt import (
    IGNORED_FOR,
    Admission,
    Arrival,
    Asked,
    Call,
    Doubt,
    Fate,
    Sums,
)
from kvflow_agents.expectations import Expectations
from kvflow_agents.foresight import Heard, Outcome
from kvflow_agents.hints import Hint

MAX_PAGE = 100
"""The most workflows, or agents of one workflow, in one answer."""


@dataclass(frozen=True, slots=True)
class ReceiptLimits:
    """How much is kept. Beyond it the workflow that was silent longest goes."""

    most_workflows: int = 1024
    most_agents: int = 16_384
    most_under_way: int = 8192
    """Calls that were never admitted stay until so many others have come, and what tells the
    samples of one call from calls of their own."""
    last_calls: int = 4
    """Of each agent."""


@dataclass(frozen=True, slots=True)
class About:
    """One workflow as it is kept, not copied."""

    app: str | None
    done: bool
    agents: Collection[str]
    """Those that called, or for whom something was loaded in vain."""


@dataclass(slots=True)
class _Agent:
    last: deque[Call]
    sums: Sums = field(default_factory=Sums)
    wasted_tokens: int = 0  # since its last call


@dataclass(slots=True)
class _Workflow:
    app: str | None
    seq: int | None = None
    done: bool = False
    sums: Sums = field(default_factory=Sums)
    # In the order of their last call.
    agents: OrderedDict[str, _Agent] = field(default_factory=OrderedDict)


class Receipts:
    """Adds up calls as they are admitted, so that an answer is a slice. Pure and bounded."""

    def __init__(self, limits: ReceiptLimits | None = None, totals: Sums | None = None) -> None:
        """`totals`: where other receipts are counted too."""
        self.totals = Sums() if totals is None else totals
        """Of all calls since the start, whatever has been forgotten."""
        self._limits = limits or ReceiptLimits()
        self._agents = 0
        # In the order of their last hint.
        self._workflows: OrderedDict[str, _Workflow] = OrderedDict()
        # Samples too, though they are no calls of their own.
        self._under_way: OrderedDict[str, Arrival] = OrderedDict()
        # The first of the requests that each one of a client has become.
        self._asked: OrderedDict[Asked, str] = OrderedDict()

    def heard(self, hint: Hint, outcome: Outcome) -> None:
        """A hint has come, with a request or without."""
        workflow = self._workflows.get(hint.workflow)
        if workflow is None:
            workflow = self._workflows[hint.workflow] = _Workflow(hint.app)
        if outcome == "accepted":
            seq = hint.forecast.seq
            workflow.seq = seq if workflow.seq is None else max(workflow.seq, seq)
            workflow.done = hint.forecast.done
        self._workflows.move_to_end(hint.workflow)
        self._forget_excess()

    def arrived(
        self, request_id: str, hint: Hint, heard: Heard, *, doubt: Doubt | None = None
    ) -> bool:
        """A request has come with a hint; whether it is a call of its own.

        Where a client wants several answers (`n` above 1) the server makes of its one request a
        first one, which fills the cache, and the samples: the first is the call. `doubt`: why
        its workflow has no influence.
        """
        outcome = heard.outcome
        fate: Fate = "distrusted" if outcome == "accepted" and doubt is not None else outcome
        arrival = self._under_way[request_id] = Arrival(
            hint.workflow,
            hint.agent,
            hint.forecast.seq,
            fate,
            heard.was_foretold,
            reason=doubt if fate == "distrusted" else IGNORED_FOR.get(fate),
            predicted=heard.predicted,
            at_ms=hint.at_ms,
        )
        if len(self._under_way) > self._limits.most_under_way:
            self._under_way.popitem(last=False)
        if arrival.asked in self._asked:
            return False
        self._asked[arrival.asked] = request_id
        if len(self._asked) > self._limits.most_under_way:
            self._asked.popitem(last=False)
        self.heard(hint, outcome)
        return True

    def is_under_way(self, request_id: str) -> bool:
        """Whether a hinted request has arrived and was not admitted yet."""
        return request_id in self._under_way

    def admitted(self, request_id: str, admission: Admission) -> Call | None:
        """The first prefill of a request is done; later ones, and unhinted requests, are none.

        What is kept of it, or of a sample what is kept of its first; None if it is no call, or
        that of no agent.
        """
        arrival = self._under_way.pop(request_id, None)
        if arrival is None:
            return None
        if self._asked.get(arrival.asked, request_id) != request_id:
            return self._last_call(arrival)
        self.totals.add(arrival, admission)
        workflow = self._workflows.get(arrival.workflow)
        if workflow is None:
            return None
        workflow.sums.add(arrival, admission)
        if arrival.agent is None:
            return None
        agent = self._agent(workflow, arrival.agent)
        workflow.agents.move_to_end(arrival.agent)
        call = Call(arrival, admission, agent.wasted_tokens)
        agent.last.append(call)
        agent.wasted_tokens = 0
        agent.sums.add(arrival, admission)
        self._forget_excess()
        return call

    def wasted(self, name: str, agent: str, tokens: int) -> None:
        """What was loaded ahead for an agent of a workflow has been evicted unread."""
        self.totals.wasted_tokens += tokens
        workflow = self._workflows.get(name)
        if workflow is None:
            return
        kept = self._agent(workflow, agent)
        kept.wasted_tokens += tokens
        for sums in (workflow.sums, kept.sums):
            sums.wasted_tokens += tokens
        self._forget_excess()

    def workflows(self, *, offset: int = 0, limit: int = MAX_PAGE) -> dict[str, Any]:
        """The workflows heard last, newest first: names and sums, as JSON has them."""
        rows = [
            {"workflow": name, **_summary(self._workflows[name])}
            for name in _page(self._workflows, offset, limit)
        ]
        return {"total": len(self._workflows), "workflows": rows}

    def workflow(
        self, name: str, expected: Expectations, *, offset: int = 0, limit: int = MAX_PAGE
    ) -> dict[str, Any] | None:
        """One workflow, and its agents that called last, newest first; None if unknown.

        Of what it expects the answer has the nearest agents, those that never called included.
        """
        workflow = self._workflows.get(name)
        if workflow is None:
            return None
        rows = []
        for agent in _page(workflow.agents, offset, limit):
            kept = workflow.agents[agent]
            last = [call.as_json() for call in reversed(kept.last)]
            about = {"agent": agent, "steps": expected.steps.get(agent)}
            rows.append({**about, "sums": kept.sums.as_json(), "last_calls": last})
        nearest = expected.soonest(min(limit, MAX_PAGE))
        coming = [{"agent": agent, "steps": count} for agent, count in nearest]
        return {"workflow": name, **_summary(workflow), "expected": coming, "agents": rows}

    def about(self, name: str) -> About | None:
        """One workflow for readers in the same process; None if unknown."""
        workflow = self._workflows.get(name)
        if workflow is None:
            return None
        return About(workflow.app, workflow.done, workflow.agents.keys())

    def sums(self, name: str, agent: str) -> Sums:
        """What an agent's calls add up to; nothing if it is unknown."""
        workflow = self._workflows.get(name)
        kept = None if workflow is None else workflow.agents.get(agent)
        return Sums() if kept is None else kept.sums

    def _last_call(self, sample: Arrival) -> Call | None:
        """The call that a sample belongs to, if it is still among the last."""
        workflow = self._workflows.get(sample.workflow)
        agent = None if workflow is None else workflow.agents.get(sample.agent or "")
        last = () if agent is None else agent.last
        return next((call for call in last if call.arrival.asked == sample.asked), None)

    def _agent(self, workflow: _Workflow, name: str) -> _Agent:
        agent = workflow.agents.get(name)
        if agent is None:
            agent = workflow.agents[name] = _Agent(deque(maxlen=self._limits.last_calls))
            self._agents += 1
        return agent

    def _forget_excess(self) -> None:
        limits = self._limits
        while len(self._workflows) > limits.most_workflows:
            self._forget_oldest()
        while self._agents > limits.most_agents:
            oldest = next(iter(self._workflows.values()))
            if len(self._workflows) == 1:
                oldest.agents.popitem(last=False)
                self._agents -= 1
            else:
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, workflow = self._workflows.popitem(last=False)
        self._agents -= len(workflow.agents)


def _page(names: OrderedDict[str, Any], offset: int, limit: int) -> Iterator[str]:
    return islice(reversed(names), offset, offset + min(limit, MAX_PAGE))


def _summary(workflow: _Workflow) -> dict[str, Any]:
    return {
        "app": workflow.app,
        "seq": workflow.seq,
        "done": workflow.done,
        "known_agents": len(workflow.agents),
        "sums": workflow.sums.as_json(),
    }
