"""Faults from within a server: a death in mid-prefetch, a clock that jumps; and checks.

An SGLang plugin that does nothing unless KVFLOW_FAULTS names a JSON file of switches, which may
change while the server runs: `dies_in_prefetch` (the scheduler kills itself with a copy ahead of
its request under way; a stock one, with a copy for its request) and `clock_ms` (by how much the
HTTP process's wall clock is off). An idle scheduler then checks all books of the cache besides
SGLang's own checks, and dies if they are off. `GET /kvflow/status` tells the size of each table.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from kvflow_bench.instruments import switches
from kvflow_faults.tables import sizes

VARIABLE = "KVFLOW_FAULTS"
# SGLang's own: every slot accounted for after each batch and when idle, none free and in use.
CHECKS = {
    "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1",
    "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_IDLE": "1",
    "SGLANG_CHECK_KV_PAGE_INVARIANTS": "1",
    "SGLANG_INVARIANT_CHECK": "2",
}
COPIES = "sglang.srt.mem_cache.unified_radix_cache.UnifiedRadixCache.check_hicache_events"
IDLE = "sglang.srt.managers.scheduler.Scheduler.on_idle"
STATUS = "kvflow_sglang.cache.KVFlowRadixCache.status"
TABLE = "table "
FREE_HOST_TOKENS = "free_host_tokens"


def register() -> None:
    """Entry point of SGLang's plugins."""
    if not os.environ.get(VARIABLE):
        return
    from kvflow_sglang.compat.hooks import HookRegistry, HookType

    if multiprocessing.parent_process() is None:
        HookRegistry.register("time.time_ns", _time_ns, HookType.AROUND)
        HookRegistry.register("time.time", _time, HookType.AROUND)
    elif "sglang.srt.managers.scheduler" in sys.modules:
        HookRegistry.register(COPIES, _die_in_prefetch, HookType.BEFORE)
        HookRegistry.register(IDLE, _check, HookType.BEFORE)
        HookRegistry.register(STATUS, _status, HookType.AROUND)


def _time_ns(original: Callable[[], int]) -> int:
    return original() + int(switches(VARIABLE).get("clock_ms", 0)) * 1_000_000


def _time(original: Callable[[], float]) -> float:
    return original() + int(switches(VARIABLE).get("clock_ms", 0)) / 1000


def _die_in_prefetch(cache: Any) -> None:
    """A pass begins, before copies that are done are let into the tree."""
    prefetcher = getattr(cache, "prefetcher", None)
    copies = cache.ongoing_load_back if prefetcher is None else prefetcher.tokens_under_way
    if copies and switches(VARIABLE).get("dies_in_prefetch"):
        os.kill(os.getpid(), signal.SIGKILL)


def _status(original: Callable[[Any], dict[str, int]], cache: Any) -> dict[str, int]:
    """Around what a cache tells of itself: its tables, and the room in the host tier."""
    tables = {f"{TABLE}{name}": size for name, size in sizes(cache).items()}
    return {**original(cache), **tables, FREE_HOST_TOKENS: _host_pool(cache).available_size()}


def _check(scheduler: Any) -> None:
    """Nothing runs: no slot may be locked but for copies under way, and all books must agree."""
    cache = scheduler.tree_cache
    if not scheduler.is_fully_idle() or getattr(cache, "prefetcher", None) is None:
        return
    cache.tenants.anonymous.foresight.check()
    copies = cache.prefetcher.tokens_under_way or cache.ongoing_write_through
    if not copies and not cache.ongoing_load_back:
        cache.sanity_check()
        assert cache.protected_size() == 0, "slots are locked, and nothing uses them"
        _check_host_slots(cache)


def _check_host_slots(cache: Any) -> None:
    """SGLang's checks count the device's slots only."""
    from kvflow_sglang.compat.radix_cache import host_value

    values = map(host_value, cache.tree_core._collect_all_nodes())
    held = sum(len(value) for value in values if value is not None)
    pool = _host_pool(cache)
    lost = pool.size - pool.available_size() - held
    assert lost == 0, f"{lost} slots of the host tier are neither free nor in the tree"


def _host_pool(cache: Any) -> Any:
    return cache.cache_controller.mem_pool_host
