"""When KV is used again, on one scale: as forecasts tell it, or as KV of its age was before."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Literal

from kvflow_agents.eviction import Rank, Standing

Order = Literal["time", "steps"]
"""`time`: by when KV is used again, told or not; `steps`: by steps-to-execution, as in KVFlow."""

# So many arrivals are remembered with their times; what was used before them is older.
MOST_MARKS = 4096
# Ages by powers of two, from a millisecond on.
BINS = 40
# Beyond so much evidence the older half no longer counts.
MOST_EVENTS = 4096.0
# Evidence of nothing: KV that has rested for a while is used again after as long, as in LRU.
PRIOR_EVENTS = 1.0


class ReuseByAge:
    """How soon KV of which nothing is known is used again, by how long it has rested.

    A rate for each power of two of ages: uses over the time that KV spent at that age, as in LHD
    (Beckmann et al., NSDI 2018, hit density), weighed by nothing.
    """

    def __init__(self) -> None:
        self._uses = [0.0] * BINS
        self._rested_ms = [0.0] * BINS
        self._events = 0.0

    def note(self, from_ms: float, age_ms: float, *, was_used: bool) -> None:
        """KV has rested from one age to another, until it was used, or was evicted."""
        last = _bin_of(age_ms)
        for each in range(_bin_of(from_ms), last + 1):
            begin_ms = _begin_ms(each)
            end_ms = min(begin_ms + _width_ms(each), age_ms)
            self._rested_ms[each] += max(end_ms - max(begin_ms, from_ms), 0.0)
        self._uses[last] += was_used
        self._events += 1
        if self._events > MOST_EVENTS:
            self._events /= 2
            self._uses = [uses / 2 for uses in self._uses]
            self._rested_ms = [rested_ms / 2 for rested_ms in self._rested_ms]

    def wait_ms(self, age_ms: float) -> float:
        """After how long KV that has rested for so long is used again, at its present rate."""
        this = _bin_of(age_ms)
        prior_ms = PRIOR_EVENTS * max(age_ms, 1.0)
        return (self._rested_ms[this] + prior_ms) / (self._uses[this] + PRIOR_EVENTS)


class MessageClock:
    """The clock of a cache, as far as messages tell it.

    Time is what the server has stamped on its messages, so that all ranks have the same. Recency
    is counted in accesses; `accesses` tells the count, and each message ties it to the clock.
    """

    def __init__(self, accesses: Callable[[], float]) -> None:
        self.now_ms = 0
        self._accesses = accesses
        self._marks: list[float] = []
        self._times_ms: list[int] = []

    @property
    def has_begun(self) -> bool:
        """Whether any message has told the time."""
        return bool(self._marks)

    def tell(self, at_ms: int | None) -> None:
        """A message has come at this time; one that is earlier than others changes nothing."""
        if at_ms is None or at_ms <= self.now_ms:
            return
        self.now_ms = at_ms
        self._marks.append(self._accesses())
        self._times_ms.append(at_ms)
        if len(self._marks) > MOST_MARKS:
            del self._marks[: MOST_MARKS // 2], self._times_ms[: MOST_MARKS // 2]

    def age_ms(self, last_access: float) -> int:
        """For how long KV has rested since an access."""
        after = bisect_left(self._marks, last_access)
        if after == 0:
            return self.now_ms - self._times_ms[0] if self._times_ms else 0
        return self.now_ms - self._times_ms[after - 1]


class Reuse:
    """Which of two leaves is used first, as forecasts tell it or as one tenant's KV was before."""

    def __init__(self, clock: MessageClock, *, order: Order) -> None:
        self.clock = clock
        self.order = order
        self._by_age = ReuseByAge()

    def note(self, rank: Rank, since: float, *, was_used: bool) -> None:
        """A leaf of this rank was used again, or evicted. Without a clock it has no age.

        `since`: the last access before it was a leaf. What lay below it until then is what was
        looked at, and what an eviction leaves of a conversation has not rested twice.
        """
        if rank.standing is Standing.ORDINARY and self.clock.has_begun:
            age_ms = self.clock.age_ms(rank.last_access)
            from_ms = age_ms - self.clock.age_ms(since)
            self._by_age.note(max(from_ms, 0), age_ms, was_used=was_used)

    def expected_goes(self, ordinary: Rank, expected: Rank) -> bool:
        """Whether the expected leaf will likely be used later than the ordinary one.

        By steps, and before any message has told the time, whatever is expected stays.
        """
        if self.order == "steps" or not self.clock.has_begun:
            return False
        wait_ms = expected.distance - self.clock.now_ms
        return wait_ms > self._by_age.wait_ms(self.clock.age_ms(ordinary.last_access))


def _bin_of(age_ms: float) -> int:
    return min(int(max(age_ms, 0)).bit_length(), BINS - 1)


def _begin_ms(number: int) -> float:
    return 0.0 if number == 0 else float(1 << (number - 1))


def _width_ms(number: int) -> float:
    return 1.0 if number == 0 else float(1 << (number - 1))
