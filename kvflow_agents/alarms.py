"""When to look at somebody again who has not called."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Alarmed(Protocol):
    """Has an alarm at most."""

    alarm_ms: int | None


A = TypeVar("A", bound=Alarmed)
Owner = TypeVar("Owner")


class Alarms(Generic[Owner, A]):
    """Alarms of many, each with an owner; the earliest ring first, in the order they were set.

    Setting and ringing cost O(log n), amortized. Whoever takes an alarm back sets `alarm_ms` to
    None.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Owner, A]] = []
        self._count = 0
        self._most = 64

    def set(self, owner: Owner, alarmed: A, at_ms: int) -> None:
        """Ring at some time, instead of the one that was set before."""
        if alarmed.alarm_ms == at_ms:
            return
        alarmed.alarm_ms = at_ms
        self._count += 1
        heapq.heappush(self._heap, (at_ms, self._count, owner, alarmed))
        if len(self._heap) > self._most:
            self._heap = [entry for entry in self._heap if entry[3].alarm_ms == entry[0]]
            heapq.heapify(self._heap)
            self._most = 2 * len(self._heap) + 64

    def rung(self, now_ms: int) -> Iterator[tuple[Owner, A]]:
        """Those whose time has come; their alarms are off."""
        while self._heap and self._heap[0][0] <= now_ms:
            at_ms, _, owner, alarmed = heapq.heappop(self._heap)
            if alarmed.alarm_ms == at_ms:
                alarmed.alarm_ms = None
                yield owner, alarmed
