"""A link between the tiers on which copies take as long as a test wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvflow_sglang.standalone import StandaloneCache


class Event:
    """The end of a copy."""

    def __init__(self, finish: Callable[[], None]) -> None:
        self._finish: Callable[[], None] | None = finish

    def query(self) -> bool:
        return self._finish is None

    def synchronize(self) -> None:
        if self._finish is not None:
            finish, self._finish = self._finish, None
            finish()


class SlowLink:
    """Stands in for the engine of early loads: bytes move when a test calls `deliver`.

    Until then the destination holds what was there before, poisoned.
    """

    def __init__(self, cache: StandaloneCache) -> None:
        loads = cache.cache.prefetcher._loads
        self._engine = loads._engine
        self._pool = cache.kv_pool
        self.pending: list[Event] = []
        self.host_to_device_stream = self._engine.host_to_device_stream
        loads._engine = self

    def submit_host_to_device(self, transfers: list[Any], **kwargs: Any) -> Any:
        for transfer in transfers:
            for buffer in self._pool.k_buffer:
                buffer[transfer.device_indices.long()] = -1.0

        def copy() -> None:
            self._engine.submit_host_to_device(transfers, **kwargs)

        event = Event(copy)
        self.pending.append(event)
        return _Done(event)

    def deliver(self) -> int:
        """Finish all copies; how many there were."""
        count = len(self.pending)
        for event in self.pending:
            event.synchronize()
        self.pending.clear()
        return count


class _Done:
    timing_enabled = False
    start_event = None

    def __init__(self, finish_event: Event) -> None:
        self.finish_event = finish_event
