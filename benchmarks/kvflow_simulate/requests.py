"""What is asked of the simulated engine, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from kvflow_agents.hints import Hint
from kvflow_agents.lora_ledger import Adapter
from kvflow_agents.prefix import Tokens


class CallId(NamedTuple):
    """The same call in every run of a workload: which call of which workflow."""

    workflow: int
    number: int


@dataclass(eq=False, slots=True)
class Request:
    """One model call; `answer` is what of its answer gets cached (all but the last token)."""

    id: CallId
    agent: str
    prompt: Tokens
    answer: Tokens
    hint: Hint | None = None
    adapter: Adapter = None


@dataclass(frozen=True, slots=True)
class Served:
    """How a request was served. Its prompt's tokens are the sum of the four counts."""

    request: Request
    sent_s: float
    first_token_s: float
    ended_s: float
    kept_tokens: int
    """Found on the device, where they had stayed."""
    prefetched_tokens: int
    """Found on the device, where they had been loaded ahead."""
    loaded_tokens: int
    """Loaded for this request."""
    computed_tokens: int

    @property
    def latency_s(self) -> float:
        """From sending the request to the last token."""
        return self.ended_s - self.sent_s

    @property
    def ttft_s(self) -> float:
        """From sending the request to the first token."""
        return self.first_token_s - self.sent_s


class Traffic(Protocol):
    """Who calls: requests at the start, those that follow an answer, those that have their time.

    As it stands here, nothing has its time.
    """

    def first(self) -> Iterable[Request]: ...
    def answered(self, request: Request) -> Iterable[Request]: ...

    @property
    def next_s(self) -> float:
        """When something is sent next, by the engine's clock; infinite if nothing is."""
        return math.inf

    def send(self) -> Request | Hint | None:
        """Take what is sent at `next_s`: a request, a hint without one, or nothing after all."""
        raise LookupError("nothing is to be sent")
