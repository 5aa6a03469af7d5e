"""A request in the engine: how far it is, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass

from kvflow_simulate.early_loads import Flight
from kvflow_simulate.requests import Request
from kvflow_simulate.tree import Node


@dataclass(eq=False, slots=True)
class Job:
    """One request, from its arrival to its last token."""

    request: Request
    sent_s: float
    done_tokens: int = 0
    """Of the prompt, cached or computed."""
    take_tokens: int = 0
    """Computed in the batch at hand."""
    inserted_tokens: int = 0
    """What of it and its answer has entered the tree."""
    held: Node | None = None
    left_tokens: int = 0
    """Answer tokens to come, the last one included, which is not cached."""
    waits: int = 0
    waits_for: Flight | None = None
    kept_tokens: int = 0
    prefetched_tokens: int = 0
    loaded_tokens: int = 0
    first_token_s: float = 0.0
    adapter_ready_s: float = 0.0

    @property
    def slots_to_come(self) -> int:
        """What its answer will still occupy."""
        return min(self.left_tokens, len(self.request.answer))
