"""How many tokens the link from the host tier carries, as copies show that have landed."""

from __future__ import annotations

# Fewer copies show too little: the clock of the messages stands still between two of them.
FEWEST_COPIES = 4
# Beyond so many the older half no longer counts.
MOST_COPIES = 64.0


class LinkRate:
    """Tokens a millisecond of the message clock, over the latest copies.

    All ranks see the same, for a copy has landed when all agree that it has. A copy between two
    messages seems to take no time and one over a message too much, which averages out; while no
    message has come during any, nothing is known, and the link is faster than the calls.
    """

    def __init__(self) -> None:
        self._copies = 0.0
        self._tokens = 0.0
        self._took_ms = 0.0

    def note(self, tokens: int, took_ms: int) -> None:
        """A copy of so many tokens took so long."""
        self._copies += 1
        self._tokens += tokens
        self._took_ms += took_ms
        if self._copies > MOST_COPIES:
            self._copies /= 2
            self._tokens /= 2
            self._took_ms /= 2

    def tokens_in(self, ms: float) -> float | None:
        """How many tokens the link carries in so long; None: not known."""
        if self._copies < FEWEST_COPIES or not self._took_ms:
            return None
        return self._tokens / self._took_ms * max(ms, 0.0)
