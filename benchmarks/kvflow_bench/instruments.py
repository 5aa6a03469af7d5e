"""Switches in a running server: a slow host link, poisoned slots, loads shown too early.

An SGLang plugin that does nothing unless KVFLOW_BENCH_SWITCHES names a JSON file. It is read
again at every copy, so that one server can be measured with the switches off and on:
`h2d_delay_cycles` (what SGLang's own test switch delays each layer by), `poison` (fill the slots
of every load before it is copied), `unfenced` (let kvflow show KV before its copy is done) and
`defer_passes` (put the bytes of kvflow's early loads off for so many passes of the scheduler, or
for as many as a list says for each rank: a slow link on a CPU, where copies are done at once).

With KVFLOW_BENCH_DUMMY_BASE set, LoRA adapters are read from their files although the base model
has none (`--load-format dummy`); SGLang 0.5.23 reads both the same way, and fails.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "KVFLOW_BENCH_SWITCHES"
DUMMY_BASE_VARIABLE = "KVFLOW_BENCH_DUMMY_BASE"
DELAY_VARIABLE = "SGLANG_TEST_HICACHE_H2D_DELAY_CYCLES"
SUBMIT = "sglang.srt.mem_cache.l2_transfer.L2TransferEngine.submit_host_to_device"
READ_ADAPTER = "sglang.srt.lora.lora.LoRAAdapter.initialize_weights"
FINISH = "kvflow_sglang.loads.EarlyLoads.finish"
COPY_AHEAD = "kvflow_sglang.compat.copies.copy_to_device"
# Finite, and far from any real key or value.
POISON = 100.0


def register() -> None:
    """Entry point of SGLang's plugins."""
    if "sglang.srt.managers.scheduler" not in sys.modules:
        return
    from kvflow_sglang.compat.hooks import HookRegistry, HookType

    if os.environ.get(VARIABLE):
        HookRegistry.register(SUBMIT, _submit, HookType.AROUND)
        HookRegistry.register(FINISH, _finish, HookType.AROUND)
        HookRegistry.register(COPY_AHEAD, _copy_ahead, HookType.AROUND)
    if os.environ.get(DUMMY_BASE_VARIABLE):
        HookRegistry.register(READ_ADAPTER, _read_adapter, HookType.BEFORE)


def switches(variable: str = VARIABLE) -> dict[str, Any]:
    """What is switched on now in the file that a variable names; nothing if there is none.

    Replace the file in one step (`mv`): one that is half written is read as nothing.
    """
    try:
        found: dict[str, Any] = json.loads(Path(os.environ[variable]).read_text())
    except (KeyError, FileNotFoundError, ValueError):
        return {}
    return found


def _submit(submit: Callable[..., Any], engine: Any, transfers: Any, **kwargs: Any) -> Any:
    on = switches()
    os.environ[DELAY_VARIABLE] = str(on.get("h2d_delay_cycles", 0))
    if on.get("poison"):
        for transfer in transfers:
            _poison(engine.host_to_device_stream, transfer)
    return submit(engine, transfers, **kwargs)


def _poison(stream: Any, transfer: Any) -> None:
    """Fill the slots that a copy is about to write, in the order of its own stream."""
    pool, slots = transfer.device_pool, transfer.device_indices
    if slots.is_cuda:
        import torch

        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            _fill(pool, slots)
    else:
        _fill(pool, slots)


def _fill(pool: Any, slots: Any) -> None:
    for buffer in (*pool.k_buffer, *pool.v_buffer):
        buffer[slots.long()] = POISON


def _read_adapter(adapter: Any) -> None:
    """Before `LoRAAdapter.initialize_weights`: its files are there, whatever the base model has."""
    from sglang.srt.configs.load_config import LoadFormat

    adapter.load_config = copy.copy(adapter.load_config)
    adapter.load_config.load_format = LoadFormat.AUTO


def _finish(finish: Callable[..., Any], loads: Any, **kwargs: Any) -> Any:
    loads._is_fenced = not switches().get("unfenced", False)
    return finish(loads, **kwargs)


class DeferredCopy:
    """A copy whose bytes move when it is waited for; it says that it is done after some queries.

    While it is under way it is asked once in each pass of the scheduler.
    """

    is_timed = False
    start_event = None

    def __init__(self, copy: Callable[[], Any], passes: int, tokens: int, size_bytes: int) -> None:
        self._copy: Callable[[], Any] | None = copy
        self._passes = passes
        self.tokens = tokens
        self.size_bytes = size_bytes

    @property
    def finish_event(self) -> DeferredCopy:
        """Set when the copy is done."""
        return self

    def query(self) -> bool:
        """Whether the copy is done, or would be if somebody waited for it."""
        self._passes -= 1
        return self._passes < 0 or self._copy is None

    def synchronize(self) -> None:
        """Let the bytes move, if they have not."""
        if self._copy is not None:
            move, self._copy = self._copy, None
            move()


def _copy_ahead(
    start: Callable[..., Any], controller: Any, engine: Any, host_indices: Any, slots: Any
) -> Any:
    on = switches()
    passes = _passes_here(on.get("defer_passes", 0))
    if not passes:
        return start(controller, engine, host_indices, slots)
    if on.get("poison"):
        _fill(controller.mem_pool_device, slots)

    def move() -> None:
        start(controller, engine, host_indices, slots)

    return DeferredCopy(move, passes, len(slots), size_bytes=0)


def _passes_here(passes: int | list[int]) -> int:
    if isinstance(passes, int):
        return passes
    import torch

    here: int = passes[torch.distributed.get_rank()]
    return here
