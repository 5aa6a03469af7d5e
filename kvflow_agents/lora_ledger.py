"""LoRA adapters: who calls with which, and so how soon each will be used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

Adapter: TypeAlias = str | None
"""An adapter by its name, or by a server's id; None: the base model, which takes a slot too."""

NO_LORAS: Mapping[str, str] = MappingProxyType({})

FEWEST_LIFETIME_EVICTIONS = 256
"""Below so many evictions a forecast does not grow old, however few slots there are."""


@dataclass(frozen=True, slots=True)
class _User:
    adapter: Adapter
    steps: int | None
    has_called: bool
    """Whether its own call has shown the adapter, which then counts for more than any hint."""


@dataclass(slots=True)
class _Workflow:
    told_at: int
    users: dict[str, _User] = field(default_factory=dict)


class AdapterLedger:
    """The invocation distance of each adapter: the steps of the nearest agent that calls with it.

    What an agent calls with is learned from its requests, for its workflow and, where that names
    an `app`, for all of its runs; until it has called, what its workflow's hints say counts.
    Adapters go by name: one that is unloaded and loaded again is the same. Pure: no clock. Age is
    counted in adapters that were evicted; what a workflow has told no longer counts when
    `lifetime_evictions` have passed since.
    """

    def __init__(
        self, *, lifetime_evictions: int, most_agents: int = 65_536, most_apps: int = 1024
    ) -> None:
        self._lifetime_evictions = lifetime_evictions
        self._most_agents = most_agents
        self._most_apps = most_apps
        self._evictions = 0
        self._agents = 0
        self._app_agents = 0
        # Both in the order in which they were last heard of.
        self._workflows: OrderedDict[str, _Workflow] = OrderedDict()
        self._apps: OrderedDict[str, dict[str, Adapter]] = OrderedDict()
        # adapter -> steps-to-execution -> agents; an adapter that nobody expects is not in it.
        self._steps: dict[Adapter, dict[int, int]] = {}
        self._by_nearness: list[Adapter] | None = None

    def __len__(self) -> int:
        return self._agents

    def steps_of(self, adapter: Adapter) -> int | None:
        """In how many steps an adapter will be used; None if nobody is expected to."""
        steps = self._steps.get(adapter)
        return min(steps) if steps else None

    def by_nearness(self) -> list[Adapter]:
        """The adapters that will be used, soonest first, then first heard of first."""
        if self._by_nearness is None:
            self._by_nearness = sorted(self._steps, key=lambda each: min(self._steps[each]))
        return self._by_nearness

    def called(
        self, workflow: str, app: str | None, agent: str, adapter: Adapter, steps: int | None
    ) -> None:
        """An agent calls with an adapter, and will again in so many steps."""
        self._put(self._heard(workflow), agent, _User(adapter, steps, has_called=True))
        if app is not None:
            known = self._apps.setdefault(app, {})
            self._app_agents += agent not in known
            known[agent] = adapter
            self._apps.move_to_end(app)
        self._forget_excess()

    def told(
        self,
        workflow: str,
        app: str | None,
        steps: Mapping[str, int | None],
        loras: Mapping[str, str] = NO_LORAS,
    ) -> None:
        """The steps of these agents of a workflow have changed; None: not expected.

        `loras`: with what agents will call, as a hint says.
        """
        known = self._apps.get(app, {}) if app is not None else {}
        heard = self._heard(workflow)
        for agent, count in steps.items():
            user = heard.users.get(agent)
            if agent in loras and not (user is not None and user.has_called):
                self._put(heard, agent, _User(loras[agent], count, has_called=False))
            elif user is not None:
                self._put(heard, agent, _User(user.adapter, count, user.has_called))
            elif count is not None and agent in known:
                self._put(heard, agent, _User(known[agent], count, has_called=False))
        self._forget_excess()

    def forget(self, workflow: str) -> None:
        """A workflow has ended, or what it has told no longer counts."""
        forgotten = self._workflows.pop(workflow, None)
        if forgotten is not None:
            self._agents -= len(forgotten.users)
            for user in forgotten.users.values():
                self._count(user.adapter, user.steps, -1)

    def clear(self) -> None:
        """Forget every workflow; what agents call with stays known of their apps."""
        while self._workflows:
            self.forget(next(iter(self._workflows)))

    def turn_over(self) -> None:
        """An adapter was evicted: time passes, and workflows that fell silent are forgotten."""
        self._evictions += 1
        oldest_valid = self._evictions - self._lifetime_evictions
        while self._workflows:
            name, workflow = next(iter(self._workflows.items()))
            if workflow.told_at >= oldest_valid:
                break
            self.forget(name)

    def _heard(self, name: str) -> _Workflow:
        workflow = self._workflows.setdefault(name, _Workflow(self._evictions))
        workflow.told_at = self._evictions
        self._workflows.move_to_end(name)
        return workflow

    def _put(self, workflow: _Workflow, agent: str, user: _User) -> None:
        before = workflow.users.get(agent)
        if before == user:
            return
        workflow.users[agent] = user
        if before is None:
            self._agents += 1
        else:
            self._count(before.adapter, before.steps, -1)
        self._count(user.adapter, user.steps, +1)

    def _count(self, adapter: Adapter, steps: int | None, change: int) -> None:
        if steps is None:
            return
        counts = self._steps.setdefault(adapter, {})
        counts[steps] = counts.get(steps, 0) + change
        if not counts[steps]:
            del counts[steps]
        if not counts:
            del self._steps[adapter]
        self._by_nearness = None

    def _forget_excess(self) -> None:
        while self._agents > self._most_agents or len(self._workflows) > self._most_agents:
            self.forget(next(iter(self._workflows)))
        while len(self._apps) > self._most_apps or self._app_agents > self._most_agents:
            self._app_agents -= len(self._apps.popitem(last=False)[1])

    def check(self) -> None:
        """Assert that the books are right; for tests."""
        steps: dict[Adapter, dict[int, int]] = {}
        for workflow in self._workflows.values():
            for user in workflow.users.values():
                if user.steps is not None:
                    counts = steps.setdefault(user.adapter, {})
                    counts[user.steps] = counts.get(user.steps, 0) + 1
        assert steps == self._steps, "steps are off"
        assert self._agents == sum(len(each.users) for each in self._workflows.values())
        assert self._app_agents == sum(map(len, self._apps.values())), "agents of apps are off"
