"""SGLang's LoRA adapters: what knows them, and what loads them."""

from __future__ import annotations

from itertools import takewhile
from operator import attrgetter
from typing import Any

from sglang.srt.lora.eviction_policy import EvictionPolicy
from sglang.srt.lora.lora_overlap_loader import LoRAOverlapLoader

from kvflow_agents.errors import IncompatibleServerError
from kvflow_sglang.compat.radix_cache import agreed

__all__ = ["EvictionPolicy"]

_LORA_STATE = (
    "loras",
    "lora_refs",
    "pending_lora_load_events",
    "memory_pool.uid_to_buffer_id",
    "memory_pool.max_loras_per_batch",
    "memory_pool.eviction_policy",
)


class AgreedOverlapLoader(LoRAOverlapLoader):
    """SGLang's loader of adapters, but a load is done when it is done on every rank.

    SGLang asks each rank's own event, and so ranks could admit different requests. It asks for
    each request that waits, too; ranks agree once in a pass, when `drain` is called.
    """

    def __init__(self, lora_manager: Any, cache: Any) -> None:
        super().__init__(lora_manager)
        self._cache = cache

    def drain(self) -> None:
        """Note which loads are done; once a pass, before requests are admitted."""
        events = self.lora_to_overlap_load_event
        if not events:
            return
        # One stream: they are done in the order in which they were started.
        finished = len(list(takewhile(lambda event: event.query(), events.values())))
        for adapter in list(events)[: agreed(self._cache, finished)]:
            self.device_module.current_stream().wait_event(events.pop(adapter))

    def _drain_completed_overlap_loads(self) -> None:
        """Nothing: it would be asked of all ranks for every request that waits."""


def lora_manager(scheduler: Any) -> Any:
    """What knows the adapters that are loaded in host memory, and the device's slots for them.

    IncompatibleServerError if it is not what kvflow was written for.
    """
    manager = scheduler.tp_worker.model_runner.lora_manager
    missing = [name for name in _LORA_STATE if not _has(manager, name)]
    if missing:
        raise IncompatibleServerError(f"kvflow misses {', '.join(missing)} in SGLang's LoRAManager")
    return manager


def _has(value: Any, path: str) -> bool:
    try:
        attrgetter(path)(value)
    except AttributeError:
        return False
    return True
