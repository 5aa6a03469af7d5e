"""When to look at somebody again who has not called."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, Protocol, TypeVar


class Alarmed(Hashable, Protocol):
    """Carries at most one alarm."""

    alarm_ms: int | None


A = TypeVar("A", bound=Alarmed)
Owner = TypeVar("Owner")


class Alarms(Generic[Owner, A]):
    """Alarms of many, each with an owner; the earliest ring first, in the order they were set.

    Kept by time: of one message many agents have the same. Setting one costs O(log n), amortized.
    """

    def __init__(self) -> None:
        self._at: dict[int, dict[A, Owner]] = {}
        self._times: list[int] = []  # a heap of the times in `_at`, or that were

    def set(self, owner: Owner, alarmed: A, at_ms: int) -> None:
        """Ring at some time, instead of the one that was set before."""
        if alarmed.alarm_ms == at_ms:
            return
        self.take_back(alarmed)
        alarmed.alarm_ms = at_ms
        if at_ms not in self._at:
            self._at[at_ms] = {}
            heapq.heappush(self._times, at_ms)
            # Times at which nothing rings any more go when they come up, or when most are such.
            if len(self._times) > 2 * len(self._at) + 64:
                self._times = sorted(self._at)
        self._at[at_ms][alarmed] = owner

    def take_back(self, alarmed: A) -> None:
        """Do not ring."""
        if alarmed.alarm_ms is not None:
            same_time = self._at[alarmed.alarm_ms]
            del same_time[alarmed]
            if not same_time:
                del self._at[alarmed.alarm_ms]
            alarmed.alarm_ms = None

    def rung(self, now_ms: int, most: int) -> Iterator[tuple[Owner, A]]:
        """Those whose time has come, so many at most; their alarms are off, others ring later."""
        for _ in range(most):
            while self._times and self._times[0] not in self._at:
                heapq.heappop(self._times)
            if not self._times or self._times[0] > now_ms:
                return
            same_time = self._at[self._times[0]]
            alarmed = next(iter(same_time))
            owner = same_time[alarmed]
            self.take_back(alarmed)
            yield owner, alarmed
