"""What a trace holds: calls and ends of workflows; their lengths, times and hashes, no text."""

from __future__ import annotations

from dataclasses import dataclass

from kvflow_agents.prefix import Tokens


@dataclass(frozen=True, slots=True)
class Call:
    """One model call. Each block stands for the whole prompt up to its end; the last is partial."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: Tokens
    workflow: str | None = None
    agent: str | None = None
    app: str | None = None
    latency_s: float = 0.0
    delay_s: float | None = None
    """For how long its workflow rested after the answer before; `at_s` is derived from it."""


@dataclass(frozen=True, slots=True)
class End:
    """A workflow is over, or pauses if it `is_resumable`."""

    at_s: float
    workflow: str
    is_resumable: bool = False


Event = Call | End
