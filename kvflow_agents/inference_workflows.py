"""The workflows that are inferred: which of them go on, and which have fallen silent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

# A workflow is silent after so many requests, or so many times what usually lies between two of a
# workflow's calls.
_LEAST_PATIENCE = 64
_PATIENCE_GAPS = 8
_MEMORY_GAPS = 32
MAX_RUNNING = 64


@dataclass(frozen=True, slots=True)
class Origin:
    """What a request says of itself. Requests of different spaces or scopes are never linked."""

    space: str = ""
    """Whose KV it can share."""
    scope: str | None = None
    """What its client says it belongs to, in part: a user, a cache key."""
    session: str | None = None
    """The workflow, where the client names it."""
    tenant: str | None = None
    """Whose request it is, as the server has it."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What a request says of what comes after it."""

    conversation: str | None = None
    """The conversation whose next prompt will begin with this one and its answer."""
    is_last: bool = False
    """Whether the workflow ends with it."""


@dataclass(eq=False, slots=True)
class InferredWorkflow:
    """One run of an application, as far as its requests have shown it."""

    number: int
    origin: Origin
    heard_at: int = 0
    """How many requests had been heard at its last one."""
    app: str | None = None
    """The first of its agents that was known."""
    running: list[str] = field(default_factory=list)
    last: str | None = None
    """Whose call has finished last, if that agent is known."""
    is_followed: bool = True
    """Whether another call has come since then."""
    seq: int = 0
    is_expected: bool = False
    """Whether a forecast of it stands."""

    @property
    def open_end(self) -> str | None:
        """The agent that called last, if nothing has come after its call."""
        return None if self.is_followed else self.last

    def starts(self, agent: str | None) -> None:
        """An agent (None: nobody known) calls."""
        self.is_followed = True
        if self.app is None:
            self.app = agent
        if agent is not None and len(self.running) < MAX_RUNNING:
            self.running.append(agent)

    def finishes(self, agent: str | None) -> None:
        """A call has been answered."""
        if agent in self.running:
            self.running.remove(agent)
        self.last = agent
        self.is_followed = False


class Workflows:
    """All workflows that are remembered, in the order of their last call. O(1) each, amortized."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._live: OrderedDict[int, InferredWorkflow] = OrderedDict()
        self._silent: OrderedDict[int, InferredWorkflow] = OrderedDict()
        self._of_session: dict[Origin, int] = {}
        self._mean_gap = 0.0
        self._made = 0
        self._heard = 0

    def __len__(self) -> int:
        return len(self._live) + len(self._silent)

    def find(self, number: int | None) -> InferredWorkflow | None:
        """The workflow of a number, if it is remembered."""
        return None if number is None else self._live.get(number) or self._silent.get(number)

    def of_session(self, origin: Origin) -> InferredWorkflow | None:
        """The workflow that clients name so."""
        return self.find(self._of_session.get(origin))

    def is_silent(self, workflow: InferredWorkflow) -> bool:
        """Whether nothing has been heard of it for long."""
        return workflow.number in self._silent

    def make(self, origin: Origin) -> InferredWorkflow:
        """A new workflow; it is remembered from its first call on."""
        self._made += 1
        workflow = InferredWorkflow(self._made, origin)
        if origin.session is not None:
            self._of_session[origin] = workflow.number
        return workflow

    def call(self, workflow: InferredWorkflow) -> None:
        """A workflow has sent a request."""
        self._heard += 1
        if self.find(workflow.number) is not None:
            gap = self._heard - workflow.heard_at
            self._mean_gap += (gap - self._mean_gap) / _MEMORY_GAPS
        self.answer(workflow)

    def answer(self, workflow: InferredWorkflow) -> None:
        """A workflow's request has been answered, perhaps after long."""
        self._live.pop(workflow.number, None)
        self._silent.pop(workflow.number, None)
        workflow.heard_at = self._heard
        self._live[workflow.number] = workflow

    def fall_silent(self) -> Iterator[InferredWorkflow]:
        """The workflows that have become silent since the last look."""
        patience = max(_LEAST_PATIENCE, _PATIENCE_GAPS * self._mean_gap)
        while self._live:
            workflow = next(iter(self._live.values()))
            if self._heard - workflow.heard_at <= patience:
                break
            del self._live[workflow.number]
            self._silent[workflow.number] = workflow
            workflow.running.clear()
            yield workflow

    def forget(self, workflow: InferredWorkflow) -> None:
        """A workflow has ended; another of its session is another workflow."""
        self._live.pop(workflow.number, None)
        self._silent.pop(workflow.number, None)
        self._of_session.pop(workflow.origin, None)

    def forget_excess(self) -> Iterator[InferredWorkflow]:
        """The workflows that are no longer remembered, from now on."""
        while len(self) > self._most:
            _, workflow = (self._silent or self._live).popitem(last=False)
            if workflow.origin.session is not None:
                self._of_session.pop(workflow.origin, None)
            yield workflow
