"""Faults from within a server: a death in mid-prefetch, a clock that jumps; and checks.

An SGLang plugin that does nothing unless KVFLOW_FAULTS names a JSON file of switches, which may
change while the server runs: `dies_in_prefetch` (the scheduler kills itself with a copy ahead of
its request under way) and `clock_ms` (by how much the HTTP process's wall clock is off). An idle
scheduler then checks all books of the cache besides SGLang's own checks, and dies if they are off.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "KVFLOW_FAULTS"
# SGLang's own: every slot accounted for after each batch and when idle, none free and in use.
CHECKS = {
    "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1",
    "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_IDLE": "1",
    "SGLANG_CHECK_KV_PAGE_INVARIANTS": "1",
    "SGLANG_INVARIANT_CHECK": "2",
}
STEP = "kvflow_sglang.prefetcher.Prefetcher.step"
IDLE = "sglang.srt.managers.scheduler.Scheduler.on_idle"


def register() -> None:
    """Entry point of SGLang's plugins."""
    if not os.environ.get(VARIABLE):
        return
    from kvflow_sglang.compat import HookRegistry, HookType

    if multiprocessing.parent_process() is None:
        HookRegistry.register("time.time_ns", _time_ns, HookType.AROUND)
        HookRegistry.register("time.time", _time, HookType.AROUND)
    elif "sglang.srt.managers.scheduler" in sys.modules:
        HookRegistry.register(STEP, _die_in_prefetch, HookType.BEFORE)
        HookRegistry.register(IDLE, _check, HookType.BEFORE)


def switches() -> dict[str, Any]:
    """What is switched on now; nothing if there is no file."""
    try:
        found: dict[str, Any] = json.loads(Path(os.environ[VARIABLE]).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _time_ns(original: Callable[[], int]) -> int:
    return original() + int(switches().get("clock_ms", 0)) * 1_000_000


def _time(original: Callable[[], float]) -> float:
    return original() + int(switches().get("clock_ms", 0)) / 1000


def _die_in_prefetch(prefetcher: Any) -> None:
    """A pass begins, before copies that are done are let into the tree."""
    if prefetcher.tokens_under_way and switches().get("dies_in_prefetch"):
        os.kill(os.getpid(), signal.SIGKILL)


def _check(scheduler: Any) -> None:
    """Nothing runs: no slot may be locked but for copies under way, and all books must agree."""
    cache = scheduler.tree_cache
    if not scheduler.is_fully_idle() or cache.prefetcher is None:
        return
    cache.foresight.check()
    copies = cache.prefetcher.tokens_under_way or cache.ongoing_write_through
    if not copies and not cache.ongoing_load_back:
        cache.sanity_check()
        assert cache.protected_size() == 0, "slots are locked, and nothing uses them"
