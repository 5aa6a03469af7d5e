"""The last resort: forecasts count only while they find no less than LRU would."""

from __future__ import annotations

from math import sqrt

from kvflow_agents.shadow import Shares

# More prefill than LRU's by this part, and by so many standard deviations of the difference. It is
# cheap to doubt what finds no more than LRU, and dear to be late: at 1.5 wrong hints cost 2.4%.
MOST_LOSS = 0.02
CERTAINTY = 1.0
# What a request has shown counts half after so many others.
HALF_LIFE = 256
FEWEST_REQUESTS = 32
# For so many requests nothing is believed; twice as many if that was not enough.
SHORTEST_PENALTY = 256
LONGEST_PENALTY = 16_384


class Guard:
    """Watches what a cache finds next to what LRU would have found, in the same requests.

    While forecasts do not count the cache is LRU; then they are tried again. Pure: counted in
    requests, so that all ranks decide alike.
    """

    def __init__(self) -> None:
        self.heeds = True
        """Whether forecasts count."""
        self.trips = 0
        self._penalty = SHORTEST_PENALTY
        self._left = 0
        self._requests = 0
        self._lost = 0.0
        self._squares = 0.0
        self._prefill = 0.0

    def note(self, shares: Shares) -> bool:
        """A request was admitted; whether `heeds` has changed."""
        if not self.heeds:
            self._left -= 1
            if self._left <= 0:
                self._begin()
                self.heeds = True
            return self.heeds
        lost = shares.lru - shares.cached
        for_lru = shares.blocks - shares.lru
        fade = 0.5 ** (1 / HALF_LIFE)
        self._requests += 1
        self._lost = self._lost * fade + lost
        self._squares = self._squares * fade + lost * lost
        self._prefill = self._prefill * fade + for_lru
        if self._requests > 4 * self._penalty:
            self._penalty = SHORTEST_PENALTY  # it has gone well for long enough
        if self._requests < FEWEST_REQUESTS or not self._loses():
            return False
        self.trips += 1
        self.heeds = False
        self._left, self._penalty = self._penalty, min(2 * self._penalty, LONGEST_PENALTY)
        return True

    def _loses(self) -> bool:
        is_much = self._lost > MOST_LOSS * self._prefill
        return is_much and self._lost > CERTAINTY * sqrt(self._squares)

    def _begin(self) -> None:
        self._requests = 0
        self._lost = self._squares = self._prefill = 0.0
