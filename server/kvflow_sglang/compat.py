"""Every name of SGLang 0.5.23 that is private or may move, and the check that all are there."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from sglang.srt.managers.io_struct import BaseReq, hook_custom_types
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.mem_cache.registry import create_unified_radix_cache, register_radix_cache_backend
from sglang.srt.mem_cache.unified_cache.components import ComponentType
from sglang.srt.mem_cache.unified_cache.components.full import FullComponent
from sglang.srt.mem_cache.unified_cache.tree_core_registry import (
    get_tree_core_factory,
    register_tree_core_backend,
)
from sglang.srt.mem_cache.unified_cache.unified_tree_core import UnifiedTreeCore
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache
from sglang.srt.plugins.hook_registry import HookRegistry, HookType

from kvflow_agents.errors import IncompatibleServerError

__all__ = [
    "FULL",
    "BaseReq",
    "FullComponent",
    "HookRegistry",
    "HookType",
    "RadixKey",
    "UnifiedRadixCache",
    "UnifiedTreeCore",
    "check_hooks",
    "check_names",
    "check_server",
    "create_unified_radix_cache",
    "get_tree_core_factory",
    "hook_custom_types",
    "register_radix_cache_backend",
    "register_tree_core_backend",
]

SGLANG_VERSION = "0.5.23"
FULL = ComponentType.FULL

HTTP_HOOK = "sglang.srt.managers.tokenizer_manager.TokenizerManager.generate_request"
LAUNCH_HOOK = "sglang.srt.entrypoints.engine.Engine._launch_subprocesses"
ARRIVAL_HOOK = "sglang.srt.managers.scheduler.Scheduler.handle_generate_request"
DISPATCH_HOOK = "sglang.srt.managers.scheduler.Scheduler.init_request_dispatcher"

_MEM_CACHE = "sglang.srt.mem_cache"
_TREE = f"{_MEM_CACHE}.unified_cache.unified_tree_core:UnifiedTreeCore"
_FULL = f"{_MEM_CACHE}.unified_cache.components.full:FullComponent"
_CACHE = f"{_MEM_CACHE}.unified_radix_cache:UnifiedRadixCache"

# What each process uses: a name, and the parameters it must have (None: it is no function).
SCHEDULER_NAMES: dict[str, str | None] = {
    f"{_TREE}.reset": "self",
    f"{_TREE}._add_new_node": "self parent key value priority session_id rotation_base",
    f"{_TREE}._split_node": "self key child split_len",
    f"{_TREE}._unregister_node": "self node",
    f"{_TREE}._update_evictable_leaf_sets": "self node",
    f"{_TREE}._evict_host_leaf": "self node tracker device_frees host_frees cache_actions",
    f"{_TREE}.commit_backup": "self node_id host_indices comp_xfers",
    f"{_TREE}.insert_host": "self node_id key host_value hash_value",
    f"{_FULL}._evict_device_start": "self request_cnt",
    f"{_FULL}._evict_device_next_node": "self tracker device_frees host_frees cache_actions",
    f"{_FULL}._evict_device_end": "self",
    f"{_FULL}.drive_host_eviction": "self num_tokens tracker device_frees host_frees cache_actions",
    f"{_CACHE}.checkpoint_into_tree": "self req up_to kwargs",
    f"{_CACHE}.evict": "self params",
    f"{_CACHE}.evict_for_alloc": "self params allocation_reclaim_satisfied",
    f"{_CACHE}.touch_prefix": "self key",
    f"{_CACHE}.init_hicache": "self server_args params",
    "sglang.srt.managers.scheduler:Scheduler.handle_generate_request": (
        "self recv_req mm_input_error"
    ),
    "sglang.srt.managers.scheduler:Scheduler.init_request_dispatcher": "self",
    "sglang.utils:TypeBasedDispatcher.__iadd__": "self other",
    "sglang.srt.managers.io_struct:hook_custom_types": "new_types",
}
LAUNCHER_NAMES: dict[str, str | None] = {
    "sglang.srt.entrypoints.engine:Engine._launch_subprocesses": (
        "server_args init_tokenizer_manager_func run_scheduler_process_func "
        "run_detokenizer_process_func port_args placement_group"
    ),
    "sglang.srt.managers.tokenizer_manager:TokenizerManager.generate_request": "self obj request",
    "sglang.srt.managers.tokenizer_manager:TokenizerManager.auto_create_handle_loop": "self",
    "sglang.srt.managers.tokenizer_control_mixin:_COMMUNICATOR_SPECS": None,
    "sglang.srt.managers.io_struct:hook_custom_types": "new_types",
    "sglang.srt.entrypoints.http_server:app": None,
    "sglang.srt.entrypoints.http_server:get_global_state": "",
}


def check_names(names: dict[str, str | None]) -> None:
    """IncompatibleServerError unless SGLang is the pinned version and has all these names."""
    problems = [problem for name, want in names.items() if (problem := _problem(name, want))]
    found = version("sglang")
    if found != SGLANG_VERSION:
        problems.insert(0, f"sglang {found} is installed")
    if problems:
        raise IncompatibleServerError(
            f"kvflow needs sglang=={SGLANG_VERSION} as released; "
            f"this one differs: {'; '.join(problems)}. Install sglang=={SGLANG_VERSION}, "
            "or start without --radix-cache-backend kvflow."
        )


def check_hooks(targets: Iterable[str]) -> None:
    """IncompatibleServerError unless SGLang has really applied these hooks (it only logs)."""
    missing = sorted(set(targets) - HookRegistry._patched)
    if missing:
        raise IncompatibleServerError(f"kvflow could not hook {', '.join(missing)}")


def check_server(server_args: Any) -> None:
    """IncompatibleServerError if the server is asked for something kvflow cannot work with."""
    reasons = [reason for reason, is_asked in _unsupported(server_args) if is_asked]
    if reasons:
        raise IncompatibleServerError(
            f"kvflow does not work with {', '.join(reasons)}: "
            "leave that out, or start without --radix-cache-backend kvflow"
        )


def _unsupported(args: Any) -> Iterable[tuple[str, bool]]:
    yield "--tokenizer-worker-num above 1", args.tokenizer_worker_num > 1
    yield "--disable-radix-cache", args.disable_radix_cache
    yield (
        f"--radix-eviction-policy {args.radix_eviction_policy}",
        (args.radix_eviction_policy != "lru"),
    )
    yield "--enable-session-radix-cache", args.enable_session_radix_cache
    yield (
        "--hicache-write-policy write_back",
        (args.enable_hierarchical_cache and args.hicache_write_policy == "write_back"),
    )
    yield "--hicache-host-memory-mode buffer_only", args.hicache_host_memory_mode == "buffer_only"
    yield "--enable-unified-cache-external-linker", args.enable_unified_cache_external_linker
    yield "--enable-lmcache", args.enable_lmcache
    yield "--enable-flexkv", args.enable_flexkv
    yield f"--disaggregation-mode {args.disaggregation_mode}", args.disaggregation_mode != "null"


def _problem(name: str, wanted: str | None) -> str | None:
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return f"{name} is missing"
    if wanted is None:
        return None
    if not callable(found):
        return f"{name} is no function"
    parameters = " ".join(inspect.signature(found).parameters)
    return None if parameters == wanted else f"{name} takes ({parameters})"
