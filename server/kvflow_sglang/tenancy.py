"""What a cache knows of each tenant: tables of its own, and whether its forecasts count."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kvflow_agents import workflow_memory as memory
from kvflow_agents.call_receipt import Sums
from kvflow_agents.claims import AT_ONCE, Holder
from kvflow_agents.foresight import Foresight
from kvflow_agents.guard import Guard
from kvflow_agents.receipts import ReceiptLimits, Receipts
from kvflow_agents.reuse import Reuse
from kvflow_agents.tenants import Tenant, own_name, tenant_of
from kvflow_sglang.settings import Settings
from kvflow_sglang.tree import Node

# Forecasts name agents that never call, so many for each one that may be remembered.
TOLD_PER_AGENT = 8

MakeForesight = Callable[[Tenant, memory.Limits, Reuse], Foresight[Node]]


@dataclass(slots=True)
class KnownTenant:
    """One tenant: what became of its calls, what is known of its workflows, and how it is used."""

    receipts: Receipts
    foresight: Foresight[Node]
    reuse: Reuse
    guard: Guard


class Tenants:
    """All tenants that have told something; beyond `most` those silent longest are forgotten.

    Anonymous traffic, which nothing tells apart, always is one, with limits of its own.
    """

    def __init__(self, settings: Settings) -> None:
        self.totals = Sums()
        """Of the calls of all tenants since the start, whatever has been forgotten."""
        self._most = settings.most_tenants
        agents, workflows = settings.tenant_agents, settings.tenant_workflows
        told = TOLD_PER_AGENT * agents
        self._limits = memory.Limits(workflows, agents, settings.tenant_prompt_tokens, told)
        self._calls_limits = ReceiptLimits(workflows, agents)
        workflows, agents = settings.common_workflows, settings.common_agents
        self._common_limits = memory.Limits(workflows, agents, settings.common_prompt_tokens)
        usual = ReceiptLimits()
        self._common_calls_limits = ReceiptLimits(
            min(workflows, usual.most_workflows), min(agents, usual.most_agents)
        )
        self._known: OrderedDict[Tenant, KnownTenant] = OrderedDict()
        # Of tenants that were forgotten, while their claims are given up.
        self._leaving: list[Foresight[Node]] = []
        self._trips_before = 0
        self.anonymous: KnownTenant

    def begin(self, make_foresight: MakeForesight, make_reuse: Callable[[], Reuse]) -> None:
        """Know nothing of anybody's workflows, as the cache is empty; calls stay counted."""
        self._make_foresight = make_foresight
        self._make_reuse = make_reuse
        receipts = {name: known.receipts for name, known in self._known.items()}
        self._trips_before = self.guard_trips
        self._known.clear()
        self._leaving.clear()
        receipts.setdefault(None, Receipts(self._common_calls_limits, self.totals))
        self.anonymous = self._make(None, receipts.pop(None))
        self._known[None] = self.anonymous
        for name, kept in receipts.items():
            self._known[name] = self._make(name, kept)

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[KnownTenant]:
        return iter(self._known.values())

    def items(self) -> Iterator[tuple[Tenant, KnownTenant]]:
        """Names and tenants, the one heard last first."""
        return reversed(self._known.items())

    def find(self, name: Tenant) -> KnownTenant | None:
        """A tenant, if it has told anything."""
        return self._known.get(name)

    def of(self, name: Tenant) -> KnownTenant:
        """A tenant that tells something now."""
        known = self._known.get(name)
        if known is None:
            receipts = Receipts(self._calls_limits, self.totals)
            known = self._known[name] = self._make(name, receipts)
        self._known.move_to_end(name)
        if len(self._known) > self._most + 1:
            self._forget(next(each for each in self._known if each is not None))
        return known

    def turn_over(self, evicted_tokens: int) -> None:
        """The cache has evicted tokens: time passes for everybody."""
        for known in self:
            known.foresight.turn_over(evicted_tokens)

    @property
    def is_behind(self) -> bool:
        """Whether anything is left for `catch_up`."""
        return bool(self._leaving) or any(known.foresight.is_behind for known in self)

    def catch_up(self) -> None:
        """Do what messages have left to be done, a little of it: once in each pass."""
        behind = [known.foresight for known in self if known.foresight.is_behind]
        behind += self._leaving
        for foresight in behind:
            foresight.catch_up(max(AT_ONCE // len(behind), 1))
        self._leaving = [each for each in self._leaving if each.is_behind]

    def note_wasted(self, holder: Holder, tokens: int) -> None:
        """What was loaded ahead for an agent has left the device unread."""
        workflow, agent = holder
        known = self.find(tenant_of(workflow))
        if known is not None:
            known.receipts.wasted(own_name(workflow), agent, tokens)

    @property
    def workflows(self) -> int:
        """How many workflows are known and have not ended."""
        return sum(known.foresight.workflows for known in self)

    @property
    def agents(self) -> int:
        """How many prefixes are remembered."""
        return sum(known.foresight.agents for known in self)

    @property
    def distrusted(self) -> int:
        """How many workflows are disregarded because their forecasts did not come true."""
        return sum(known.foresight.distrusted for known in self)

    @property
    def guard_trips(self) -> int:
        """How often a guard has tripped since the start, whoever has been forgotten."""
        return self._trips_before + sum(known.guard.trips for known in self)

    @property
    def disregarded(self) -> int:
        """How many tenants' guards have tripped, anonymous traffic included."""
        return sum(not known.guard.heeds for known in self)

    def status(self) -> dict[str, int]:
        """For `GET /kvflow/status`."""
        return {
            "tenants": len(self) - 1,
            "workflows": self.workflows,
            "distrusted_workflows": self.distrusted,
            "agents": self.agents,
            "guard_trips": self.guard_trips,
            "heeds_forecasts": int(self.anonymous.guard.heeds),
            "disregarded_tenants": self.disregarded,
        }

    def _make(self, name: Tenant, receipts: Receipts) -> KnownTenant:
        reuse = self._make_reuse()
        limits = self._common_limits if name is None else self._limits
        return KnownTenant(receipts, self._make_foresight(name, limits, reuse), reuse, Guard())

    def _forget(self, name: Tenant) -> None:
        known = self._known.pop(name)
        self._trips_before += known.guard.trips
        known.foresight.forget_all()
        if known.foresight.is_behind:
            self._leaving.append(known.foresight)
