"""What became of one hinted call, and what a set of calls adds up to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Fate = Literal["accepted", "stale", "ended", "distrusted"]
"""The outcome of a call's hint; distrusted: accepted, of somebody whose forecasts do not count."""
Doubt = Literal["forecasts_failed", "guard_tripped"]
"""Why forecasts do not count: the workflow's failed, or its tenant's found less than LRU would."""
Reason = Literal["newer_heard", "workflow_ended"] | Doubt
"""Why a hint has no influence."""
IGNORED_FOR: dict[Fate, Reason] = {"stale": "newer_heard", "ended": "workflow_ended"}


Asked = tuple[str, str | None, int, int | None]
"""What all requests share that one of a client has become: workflow, agent, seq, and when."""


class Predicted(NamedTuple):
    """What was said last of a call, before it came."""

    steps: int | None = None
    due_ms: int | None = None
    """From when it was said."""
    late_ms: int | None = None
    """How much later than that it came, on the server's clock; below 0 if it came earlier."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a call came: whose it is, what became of its hint, and whether it was forecast."""

    workflow: str
    agent: str | None
    seq: int
    fate: Fate
    forecast_right: bool | None
    reason: Reason | None = None
    """None if it was accepted."""
    predicted: Predicted = Predicted()
    at_ms: int | None = None
    """On the clock of the messages."""

    @property
    def asked(self) -> Asked:
        """What tells its client's request from others."""
        return self.workflow, self.agent, self.seq, self.at_ms


class Admission(NamedTuple):
    """Where a call's prompt was found when it was admitted, in tokens."""

    prompt_tokens: int
    device_tokens: int
    """Cached on the device, prefetched ones included."""
    host_tokens: int
    """Loaded back from the host tier on demand."""
    prefetched_tokens: int
    """Of those on the device: loaded ahead, and first read by this call."""
    waited: bool
    """Whether it was held back for a load that was under way."""
    lost_tokens: int = 0
    """Of what its agent's calls had in common: evicted from every tier, and computed again."""
    late_tokens: int = 0
    """Loaded ahead, but still on their way when it could have run, so that it waited."""
    clipped: bool = False
    """Whether its tenant's expected agents held more than their share of a tier, so that recency
    decided among all of the tenant's KV."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an agent, from its arrival to its admission."""

    arrival: Arrival
    admission: Admission
    wasted_tokens: int
    """Loaded ahead in vain since its agent's call before."""

    def as_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "seq": self.arrival.seq,
            "hint": self.arrival.fate,
            "reason": self.arrival.reason,
            "forecast_right": self.arrival.forecast_right,
            "predicted_steps": self.arrival.predicted.steps,
            "predicted_due_ms": self.arrival.predicted.due_ms,
            "late_ms": self.arrival.predicted.late_ms,
            **self.admission._asdict(),
            "wasted_tokens": self.wasted_tokens,
        }


@dataclass(slots=True)
class Sums:
    """What a set of calls adds up to."""

    calls: int = 0
    accepted: int = 0
    stale: int = 0
    ended: int = 0
    distrusted: int = 0
    clipped: int = 0
    forecast_right: int = 0
    forecast_wrong: int = 0
    prompt_tokens: int = 0
    device_tokens: int = 0
    host_tokens: int = 0
    prefetched_tokens: int = 0
    lost_tokens: int = 0
    late_tokens: int = 0
    wasted_tokens: int = 0
    """Loaded ahead of their agent's call, and evicted unread: of agents that never called too."""
    waits: int = 0

    def add(self, arrival: Arrival, admission: Admission) -> None:
        """One call more."""
        self.calls += 1
        setattr(self, arrival.fate, getattr(self, arrival.fate) + 1)
        self.clipped += admission.clipped
        self.forecast_right += arrival.forecast_right is True
        self.forecast_wrong += arrival.forecast_right is False
        self.prompt_tokens += admission.prompt_tokens
        self.device_tokens += admission.device_tokens
        self.host_tokens += admission.host_tokens
        self.prefetched_tokens += admission.prefetched_tokens
        self.lost_tokens += admission.lost_tokens
        self.late_tokens += admission.late_tokens
        self.waits += admission.waited

    def as_json(self) -> dict[str, int]:
        """As JSON has it."""
        return {name: getattr(self, name) for name in self.__slots__}
