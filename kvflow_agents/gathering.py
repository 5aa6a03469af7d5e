"""Requests that go into one prefill together, because their workflows run in step."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass

from kvflow_agents.tenants import Tenant, tenant_of

# Who comes later than this many batches after its answer is busy with something else. One batch
# is launched before the answer is seen, and the first prefill of a round may have begun.
PROMPT_BATCHES = 3
# Passes of an idle device, one after the other, in which nobody came.
QUIET_PASSES = 128
# Passes for one prefill, however many came.
MOST_PASSES = 1024
MOST_MISSES = 10
MOST_WORKFLOWS = 4096


@dataclass(slots=True)
class _Pace:
    """How soon a workflow calls again after its answers."""

    answered_at: int | None = None
    """The count of batches at its last answer; None once it has called again."""
    prompt_calls: int = 0
    """In a row."""
    misses: int = 0
    """How often it was waited for in vain, less how often it came."""

    @property
    def is_prompt(self) -> bool:
        """Whether it has kept its pace; the longer, the more often it was missed."""
        return self.prompt_calls >= 1 << self.misses


class Gathering:
    """Whether requests wait on an idle device for others that are about to come.

    Workflows that run side by side get their answers from the same batch, and call again within
    milliseconds of each other. A prefill costs the CPU much the same for one request as for eight
    (30 ms of launches for 32 layers), so one that begins with the first of them makes all the
    others wait for its end. Only workflows that have called again at once are waited for, by
    requests of their own tenant, and not soon again once they did not come. All follows from
    requests, answers and passes, which every rank sees in the same order.
    """

    def __init__(self) -> None:
        self._paces: OrderedDict[str, _Pace] = OrderedDict()
        self._awaited: defaultdict[Tenant, set[str]] = defaultdict(set)
        self._batches = 0
        self._waiting: Counter[Tenant] = Counter()
        self._strangers = 0
        self._passes = 0
        self._quiet_passes = 0
        self._counts = Counter(gathered_requests=0, gather_misses=0)

    def arrived(self, workflow: str | None) -> None:
        """A request has come; None: of no workflow, and such a one waits for nobody."""
        self._quiet_passes = 0
        if workflow is None:
            self._strangers += 1
            return
        tenant = tenant_of(workflow)
        self._waiting[tenant] += 1
        pace = self._pace_of(workflow)
        if workflow in self._awaited[tenant]:
            self._awaited[tenant].discard(workflow)
            if self._passes:
                self._counts["gathered_requests"] += 1
                pace.misses = max(pace.misses - 1, 0)
        if pace.answered_at is not None:
            is_prompt = self._batches - pace.answered_at <= PROMPT_BATCHES
            pace.prompt_calls = pace.prompt_calls + 1 if is_prompt else 0
            pace.answered_at = None

    def answered(self, workflow: str) -> None:
        """A call of it has got all of its answer."""
        pace = self._pace_of(workflow)
        pace.answered_at = self._batches
        if pace.is_prompt:
            self._awaited[tenant_of(workflow)].add(workflow)

    def rests(self, workflow: str) -> None:
        """It does not call again soon: its run is over, for good or for now."""
        self._awaited[tenant_of(workflow)].discard(workflow)

    def ran(self) -> None:
        """A batch has been run."""
        self._batches += 1

    def holds(self, waiting: int) -> bool:
        """Once a pass in which the device is idle and so many requests wait: whether they do so on.

        What has waited since before the last prefill is not held.
        """
        if self._strangers or len(self._waiting) != 1 or waiting > self._waiting.total():
            return False
        (tenant,) = self._waiting
        awaited = self._awaited[tenant]
        if not awaited:
            return False
        self._passes += 1
        self._quiet_passes += 1
        if self._quiet_passes <= QUIET_PASSES and self._passes <= MOST_PASSES:
            return True
        self._miss(awaited)
        return False

    def began(self) -> None:
        """A prefill has been put together; who comes now comes for the next."""
        self._awaited.clear()
        self._waiting.clear()
        self._strangers = self._passes = self._quiet_passes = 0

    def counts(self) -> dict[str, int]:
        """Requests that came while others waited for them, and workflows that did not come."""
        return dict(self._counts)

    def _miss(self, awaited: set[str]) -> None:
        for workflow in awaited:
            pace = self._pace_of(workflow)
            pace.prompt_calls = 0
            pace.misses = min(pace.misses + 1, MOST_MISSES)
        self._counts["gather_misses"] += len(awaited)
        awaited.clear()

    def _pace_of(self, workflow: str) -> _Pace:
        pace = self._paces.setdefault(workflow, _Pace())
        self._paces.move_to_end(workflow)
        if len(self._paces) > MOST_WORKFLOWS:
            self._paces.popitem(last=False)
        return pace
