"""Every name of SGLang 0.5.23 that is private or may move; `self_check` sees that all are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import attrgetter
from typing import Any

import msgspec
import torch
from sglang.srt.lora.eviction_policy import EvictionPolicy
from sglang.srt.lora.lora_overlap_loader import LoRAOverlapLoader
from sglang.srt.managers.cache_controller import CacheOperation
from sglang.srt.managers.io_struct import BaseReq, hook_custom_types
from sglang.srt.mem_cache.base_prefix_cache import EvictParams
from sglang.srt.mem_cache.hicache_storage import PoolName, PoolTransfer
from sglang.srt.mem_cache.l2_transfer import L2TransferEngine
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.mem_cache.registry import create_unified_radix_cache, register_radix_cache_backend
from sglang.srt.mem_cache.unified_cache.components import (
    ComponentType,
    get_and_increase_time_counter,
)
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
    "EvictParams",
    "EvictionPolicy",
    "FullComponent",
    "HookRegistry",
    "HookType",
    "MHATokenToKVPoolHost",
    "RadixKey",
    "UnifiedRadixCache",
    "UnifiedTreeCore",
    "create_unified_radix_cache",
    "get_tree_core_factory",
    "hook_custom_types",
    "register_radix_cache_backend",
    "register_tree_core_backend",
]

SGLANG_VERSION = "0.5.23"
FULL = ComponentType.FULL

HTTP_HOOK = "sglang.srt.managers.tokenizer_manager.TokenizerManager.generate_request"
OUTPUT_HOOK = "sglang.srt.managers.tokenizer_manager.TokenizerManager.update_request_meta_info"
LAUNCH_HOOK = "sglang.srt.entrypoints.engine.Engine._launch_subprocesses"
ARRIVAL_HOOK = "sglang.srt.managers.scheduler.Scheduler.handle_generate_request"
AUTH_HOOK = "sglang.srt.utils.auth.decide_request_auth"
DISPATCH_HOOK = "sglang.srt.managers.scheduler.Scheduler.init_request_dispatcher"
ADMISSION_HOOK = "sglang.srt.managers.scheduler.Scheduler.get_prefill_adder_class"
PASS_HOOK = "sglang.srt.managers.scheduler.Scheduler.get_new_batch_prefill"
RESULT_HOOK = "sglang.srt.managers.scheduler.Scheduler.process_batch_result"
LORA_HOOK = "sglang.srt.managers.scheduler.Scheduler.init_lora_overlap_loader"
LORA_BATCH_HOOK = "sglang.srt.lora.mem_pool.LoRAMemoryPool.prepare_lora_batch"

_MEM_CACHE = "sglang.srt.mem_cache"
_TREE = f"{_MEM_CACHE}.unified_cache.unified_tree_core:UnifiedTreeCore"
_FULL = f"{_MEM_CACHE}.unified_cache.components.full:FullComponent"
_CACHE = f"{_MEM_CACHE}.unified_radix_cache:UnifiedRadixCache"
_CONTROLLER = "sglang.srt.managers.cache_controller:HiCacheController"
_ENGINE = f"{_MEM_CACHE}.l2_transfer:L2TransferEngine"
_LORA = "sglang.srt.lora"
_HOST_POOL = f"{_MEM_CACHE}.pool_host.mha:MHATokenToKVPoolHost"

# What each process uses: a name, and the parameters it must have (None: it is no function).
SCHEDULER_NAMES: dict[str, str | None] = {
    f"{_TREE}.reset": "self",
    f"{_TREE}._new_node": "self priority",
    f"{_TREE}._add_new_node": "self parent key value priority session_id rotation_base",
    f"{_TREE}._split_node": "self key child split_len",
    f"{_TREE}._unregister_node": "self node",
    f"{_TREE}._inc_hit_count_and_check": "self node",
    f"{_TREE}.build_backup_kv_action": "self node_id",
    f"{_TREE}._update_evictable_leaf_sets": "self node",
    f"{_TREE}.evict_device_leaf": "self node_id is_write_back",
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
    f"{_CACHE}.check_hicache_events": "self",
    f"{_CACHE}.protected_size": "self",
    f"{_CACHE}.inc_host_lock_ref": "self node_id",
    f"{_CACHE}.dec_host_lock_ref": "self node_id params",
    f"{_CACHE}._count_ready_acks": "self ack_queue",
    f"{_CACHE}._execute_and_commit_kv_backup": "self action write_back",
    f"{_CACHE}._all_reduce": "self data tp_reduce_op",
    f"{_CACHE}._apply_cache_actions": "self actions",
    f"{_TREE}.commit_load_back": "self node_id device_indices kv_xfer comp_xfers",
    f"{_TREE}.finish_load_back": "self anchor_node_id",
    f"{_CONTROLLER}._move_op_indices": "self op",
    f"{_CONTROLLER}._l2_load_transfers": "self host_indices device_indices pool_transfers",
    f"{_ENGINE}.submit_host_to_device": (
        "self transfers transfer_layer_id_max start_event on_layer_done"
    ),
    f"{_HOST_POOL}.load_to_device_per_layer_physical": (
        "self device_pool host_indices device_indices layer_id io_backend is_draft"
    ),
    f"{_MEM_CACHE}.pool_host.group:HostPoolGroup._refresh_transfer_capabilities": "self",
    "sglang.kernels.ops.kvcache.hicache:transfer_hicache_all_layer": None,
    "sglang.srt.managers.scheduler:Scheduler.get_prefill_adder_class": "self",
    "sglang.srt.managers.scheduler:Scheduler.get_new_batch_prefill": "self running_batch",
    "sglang.srt.managers.scheduler:Scheduler.init_lora_overlap_loader": "self",
    f"{_LORA}.mem_pool:LoRAMemoryPool.prepare_lora_batch": (
        "self cur_uids lora_adapters lora_modules lora_refs lora_embed_tokens_module "
        "lora_lm_head_module"
    ),
    f"{_LORA}.eviction_policy:EvictionPolicy.mark_used": "self uid",
    f"{_LORA}.eviction_policy:EvictionPolicy.select_victim": "self candidates",
    f"{_LORA}.eviction_policy:EvictionPolicy.remove": "self uid",
    f"{_LORA}.lora_overlap_loader:LoRAOverlapLoader.__init__": "self lora_manager",
    f"{_LORA}.lora_overlap_loader:LoRAOverlapLoader.try_overlap_load_lora": (
        "self lora_id running_loras"
    ),
    f"{_LORA}.lora_overlap_loader:LoRAOverlapLoader._drain_completed_overlap_loads": "self",
    "sglang.srt.managers.schedule_policy:PrefillAdder.add_one_req": (
        "self req has_chunked_req truncation_align_size"
    ),
    "sglang.srt.managers.scheduler:Scheduler.handle_generate_request": (
        "self recv_req mm_input_error"
    ),
    "sglang.srt.managers.scheduler:Scheduler.init_request_dispatcher": "self",
    "sglang.srt.managers.scheduler:Scheduler.init_metrics_collector": "self",
    "sglang.srt.observability.metrics_collector:SchedulerMetricsCollectorContext": (
        "enable_metrics is_stats_logging_rank current_scheduler_metrics_enabled "
        "enable_kv_cache_events collector"
    ),
    "sglang.srt.managers.io_struct:BatchTokenIDOutput.customized_info": None,
    "sglang.utils:TypeBasedDispatcher.__iadd__": "self other",
    "sglang.srt.managers.io_struct:hook_custom_types": "new_types",
}
LAUNCHER_NAMES: dict[str, str | None] = {
    "sglang.srt.entrypoints.engine:Engine._launch_subprocesses": (
        "server_args init_tokenizer_manager_func run_scheduler_process_func "
        "run_detokenizer_process_func port_args placement_group"
    ),
    "sglang.srt.managers.tokenizer_manager:TokenizerManager.generate_request": "self obj request",
    "sglang.srt.managers.tokenizer_manager:TokenizerManager.update_request_meta_info": (
        "self meta_info state customized_info index finish_reason"
    ),
    "sglang.srt.managers.tokenizer_manager:TokenizerManager.auto_create_handle_loop": "self",
    "sglang.srt.managers.tokenizer_manager:TokenizerManager._dispatch_to_scheduler": "self obj",
    "sglang.srt.managers.tokenizer_control_mixin:_COMMUNICATOR_SPECS": None,
    "sglang.srt.managers.io_struct:hook_custom_types": "new_types",
    "sglang.srt.utils.auth:decide_request_auth": (
        "method path authorization_header api_key admin_api_key auth_level"
    ),
    "sglang.srt.utils.auth:AuthDecision": None,
    "sglang.srt.utils.auth:auth_level": "level",
    "sglang.srt.utils.auth:AuthLevel.ADMIN_OPTIONAL": None,
    "sglang.srt.managers.io_struct:GenerateReqInput.sampling_params": None,
    "sglang.srt.managers.io_struct:GenerateReqInput.kv_hints": None,
    "sglang.srt.managers.io_struct:GenerateReqInput.priority": None,
    "sglang.srt.server_args:ServerArgs.enable_priority_scheduling": None,
    "sglang.srt.server_args:ServerArgs.schedule_low_priority_values_first": None,
    "sglang.srt.entrypoints.http_server:app": None,
    "sglang.srt.entrypoints.http_server:get_global_state": "",
}


# ---- the HTTP process ----


def http_app() -> Any:
    """SGLang's FastAPI application."""
    from sglang.srt.entrypoints import http_server

    return http_server.app


def allow_unauthorized() -> Any:
    """The decision that a request needs no API key."""
    from sglang.srt.utils.auth import AuthDecision

    return AuthDecision(allowed=True)


def add_routes(app: Any, router: Any) -> None:
    """Serve a router's routes, one by one: what `include_router` of FastAPI adds hides from SGLang
    which endpoints are marked as those of administration."""
    app.router.routes.extend(router.routes)


def for_operators(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Mark an endpoint as SGLang's own for administration: the admin key's, where there is one."""
    from sglang.srt.utils.auth import AuthLevel, auth_level

    marked: Callable[..., Any] = auth_level(AuthLevel.ADMIN_OPTIONAL)(endpoint)
    return marked


def has_pickle_transport() -> bool:
    """Whether requests travel to the schedulers as pickle, which takes any JSON, or msgpack."""
    from sglang.srt.environ import envs

    return bool(envs.SGLANG_USE_PICKLE_IPC.get())


def has_rust_server() -> bool:
    """Whether requests come in by SGLang's HTTP server in Rust, past everything hooked here."""
    from sglang.srt.environ import envs

    return bool(envs.SGLANG_RUST_SERVER.get())


def json_body(request: Any) -> object:
    """The body of an HTTP request as it was parsed, with the fields that SGLang drops.

    None if nobody has parsed it; Starlette keeps it, so that it is not read again.
    """
    return getattr(request, "_json", None)


def headers_of(request: Any) -> Mapping[str, str]:
    """The headers of an HTTP request; of a name that comes twice the first, as Starlette has it.

    A dictionary, because each look-up in Starlette's reads them all, and most names are missing.
    """
    return dict(reversed(getattr(request, "headers", {}).items()))


def kv_hints_of(request: Any) -> object:
    """The envelope of a `GenerateReqInput`, or the envelopes of a batch, as JSON; None without."""
    return msgspec.to_builtins(getattr(request, "kv_hints", None))


def priority_sign(server_args: Any) -> int | None:
    """1 if a server serves higher priorities first, -1 if lower ones, None if it has no order."""
    if not server_args.enable_priority_scheduling:
        return None
    return -1 if server_args.schedule_low_priority_values_first else 1


def add_control_message(name: str, answer: type) -> None:
    """Let `ask_schedulers(name, ...)` be answered by `answer`; before the server is built."""
    from sglang.srt.managers import tokenizer_control_mixin

    tokenizer_control_mixin._COMMUNICATOR_SPECS.append((name, answer))


async def ask_schedulers(name: str, message: Any) -> list[Any]:
    """Send a control message to every scheduler; their answers, one of each."""
    from sglang.srt.entrypoints.http_server import get_global_state

    manager = get_global_state().tokenizer_manager
    manager.auto_create_handle_loop()
    answers: list[Any] = await getattr(manager, f"{name}_communicator")(message)
    return answers


def has_replicas(server_args: Any) -> bool:
    """Whether a request goes to one of several schedulers that share nothing."""
    return bool(server_args.dp_size > 1 or server_args.attn_dp_size > 1)


def tell_schedulers(manager: Any, message: Any) -> None:
    """Send a control message to every scheduler; there is no answer."""
    manager._dispatch_to_scheduler(message)


# ---- the schedulers ----


def add_handlers(scheduler: Any, handlers: Mapping[type, Callable[[Any], Any]]) -> None:
    """Let a scheduler answer more kinds of control messages."""
    from sglang.utils import TypeBasedDispatcher

    scheduler._request_dispatcher += TypeBasedDispatcher(list(handlers.items()))


def send_beside_output(req: Any, name: str, value: object) -> None:
    """Let a value go to the HTTP process beside a request's first output: no message more."""
    req.customized_info = {**(req.customized_info or {}), name: [value]}


def accesses() -> float:
    """The count by which SGLang orders accesses to nodes of its trees."""
    count: float = get_and_increase_time_counter()
    return count


def cached_tokens(req: Any) -> tuple[int, int]:
    """How many tokens of a request were found on the device, and on the host; once admitted."""
    return req.cached_tokens_device, req.cached_tokens_host


# ---- copies between the tiers ----


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy to the device that has been submitted."""

    start_event: Any
    finish_event: Any
    is_timed: bool
    tokens: int
    size_bytes: int


def host_value(node: Any) -> Any:
    """Where the host tier keeps a node's KV: an index for each token."""
    return node.component_data[FULL].host_value


def make_transfer_engine(controller: Any) -> Any:
    """A copy engine with streams of its own."""
    return L2TransferEngine(controller.io_backend)


def copy_to_device(controller: Any, engine: Any, host_indices: Any, slots: Any) -> Copy:
    """Start a copy as `HiCacheController.start_loading` does, outside its ring of three."""
    operation = CacheOperation(host_indices, slots, node_id=0)
    layers = controller.transfer_layer_id_max
    transfers = [
        each._replace(host_pool=_AllLayersAtOnce(each.host_pool))
        if _is_plain(each, layers)
        else each
        for each in controller._l2_load_transfers(*controller._move_op_indices(operation))
    ]
    if controller.load_fence_stream is not None:
        # A forward pass that was launched before may still write to freed slots.
        engine.host_to_device_stream.wait_stream(controller.load_fence_stream)
    done = engine.submit_host_to_device(transfers, transfer_layer_id_max=layers)
    size_bytes = controller._transfer_num_bytes(operation)
    return Copy(done.start_event, done.finish_event, done.timing_enabled, len(slots), size_bytes)


class _AllLayersAtOnce:
    """A host pool whose copies to the device are one kernel instead of one for each layer.

    SGLang copies layer by layer, for a batch that follows right behind. Nobody waits for an early
    load, and on an H100 32 launches took 1.4 ms of the scheduler's thread, one takes 0.2 ms.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def load_to_device_per_layer_physical(
        self,
        device_pool: Any,
        host_indices: Any,
        device_indices: Any,
        layer_id: int,
        io_backend: str,
        *,
        is_draft: bool = False,
    ) -> None:
        from sglang.kernels.ops.kvcache.hicache import transfer_hicache_all_layer

        pool = self._pool
        if layer_id == pool.layer_num - 1:
            is_page_first = pool.layout == "page_first"
            transfer_hicache_all_layer(
                k_ptr_dst=pool.device_k_data_ptrs,
                v_ptr_dst=pool.device_v_data_ptrs,
                indices_dst=device_indices,
                k_ptr_src=pool.k_data_ptrs,
                v_ptr_src=pool.v_data_ptrs,
                indices_src=host_indices,
                kv_cache_src_stride_bytes=(
                    pool.layout_dim if is_page_first else pool.token_stride_size
                ),
                kv_cache_dst_stride_bytes=pool.device_row_stride_bytes,
                element_size=pool.token_stride_size,
                page_size=pool.page_size,
            )


def _is_plain(transfer: Any, layers: int) -> bool:
    """Whether all layers of a transfer lie where one kernel finds them."""
    pool, mapped = transfer.host_pool, transfer.layer_mapper
    return (
        type(pool) is MHATokenToKVPoolHost
        and pool.can_use_jit
        and pool.layout in ("page_first", "layer_first")
        and pool.layer_num == pool.target_layer_num == layers
        and not transfer.is_draft
        and (mapped is None or all(mapped(layer) == layer for layer in range(layers)))
    )


# SGLang's own threshold for copies that are worth a call each (`kvcacheio/staged_write_back.cuh`).
_LARGE_COPY_BYTES = 128 * 1024


def back_up_in_one_launch(controller: Any) -> None:
    """Let backups of small pages be one kernel.

    SGLang 0.5.23 stages them and then makes two `cudaMemcpyAsync` calls for each page, which for
    pages of one token took half of the scheduler's thread on an H100.
    """
    group = controller.mem_pool_host
    pool = group.anchor_entry.host_pool
    if not isinstance(pool, MHATokenToKVPoolHost) or not pool.can_use_write_back_jit:
        return
    if pool.page_size * pool.layout_dim < _LARGE_COPY_BYTES:
        pool.can_use_write_back_jit = False
        group._refresh_transfer_capabilities()


def back_up(cache: Any, node_id: int) -> None:
    """Copy a node, and those above it that the host lacks, to the host tier."""
    cache._execute_and_commit_kv_backup(cache.tree_core.build_backup_kv_action(node_id))


def agree_on_finished(cache: Any, acks: Sequence[Any]) -> int:
    """How many of these copies, from the first on, are done on every rank."""
    finished = _agreed(cache, cache._count_ready_acks(acks))
    for ack in acks[:finished]:
        ack.finish_event.synchronize()
    return finished


def commit_load(cache: Any, anchor_id: int, nodes: Sequence[Any], slots: Any) -> None:
    """Give nodes of one path, uppermost first, the slots that hold their KV now."""
    loaded = PoolTransfer(name=PoolName.KV, nodes_to_load=[node.id for node in nodes])
    tree = cache.tree_core
    cache._apply_cache_actions(tree.commit_load_back(anchor_id, slots, loaded, {}))
    tree.finish_load_back(anchor_id)


def count_load(cache: Any, copy: Copy) -> None:
    """Count a copy in SGLang's own metrics of loads."""
    collector = cache.metrics_collector
    if collector is None:
        return
    collector.increment_load_back_num_tokens(num_tokens=copy.tokens, pool=PoolName.KV.value)
    collector.increment_load_back_num_bytes(copy.size_bytes)
    if copy.is_timed and copy.finish_event.query():
        duration_ms = copy.start_event.elapsed_time(copy.finish_event)
        collector.observe_load_back_duration(duration_ms / 1000.0)


def publishes_metrics(scheduler: Any) -> bool:
    """Whether a scheduler is of those whose metrics SGLang publishes."""
    publishes: bool = scheduler.metrics_collector_context.current_scheduler_metrics_enabled
    return publishes


# ---- LoRA adapters ----


class AgreedOverlapLoader(LoRAOverlapLoader):
    """SGLang's loader of adapters, but a load is done when it is done on every rank.

    SGLang asks each rank's own event, and so ranks could admit different requests.
    """

    def __init__(self, lora_manager: Any, cache: Any) -> None:
        super().__init__(lora_manager)
        self._cache = cache

    def drain(self) -> None:
        """Note which loads are done."""
        self._drain_completed_overlap_loads()

    def _drain_completed_overlap_loads(self) -> None:
        events = self.lora_to_overlap_load_event
        if not events:
            return
        # One stream: they are done in the order in which they were started.
        finished = len(list(takewhile(lambda event: event.query(), events.values())))
        for adapter in list(events)[: _agreed(self._cache, finished)]:
            self.device_module.current_stream().wait_event(events.pop(adapter))


def lora_manager(scheduler: Any) -> Any:
    """What knows the adapters that are loaded in host memory, and the device's slots for them.

    IncompatibleServerError if it is not what kvflow was written for.
    """
    manager = scheduler.tp_worker.model_runner.lora_manager
    missing = [name for name in _LORA_STATE if not _has(manager, name)]
    if missing:
        raise IncompatibleServerError(f"kvflow misses {', '.join(missing)} in SGLang's LoRAManager")
    return manager


_LORA_STATE = (
    "loras",
    "lora_refs",
    "pending_lora_load_events",
    "memory_pool.uid_to_buffer_id",
    "memory_pool.max_loras_per_batch",
    "memory_pool.eviction_policy",
)


def _has(value: Any, path: str) -> bool:
    try:
        attrgetter(path)(value)
    except AttributeError:
        return False
    return True


def adapters_needed(scheduler: Any, running_batch: Any) -> frozenset[str | None]:
    """The adapters of all requests that run or wait; of those in the last batch too.

    A request of the last batch may be found finished while the batch after it still runs.
    """
    last = scheduler.last_batch.reqs if scheduler.last_batch is not None else []
    chunked = [scheduler.chunked_req] if scheduler.chunked_req is not None else []
    every = (*running_batch.reqs, *last, *chunked, *scheduler.waiting_queue)
    return frozenset(req.lora_id for req in every)


def _agreed(cache: Any, count: int) -> int:
    """The least of the counts of all ranks."""
    least = torch.tensor(count, dtype=torch.int, device="cpu")
    cache._all_reduce(least, torch.distributed.ReduceOp.MIN)
    return int(least.item())


# ---- the CPU engine ----


def set_host_memory_reserve(reserve_bytes: int) -> None:
    """Set the host memory that HiCache leaves free (10 GiB as shipped)."""
    from sglang.srt.mem_cache.pool_host import base

    base.HICACHE_HOST_MEMORY_RESERVE_BYTES = reserve_bytes


def set_cpu_host_allocation(allocate: Callable[..., object]) -> None:
    """Allocate host pools of `cpu` device pools with `allocate`; other devices keep theirs."""
    from sglang.srt.mem_cache.pool_host import common

    common.ALLOC_MEMORY_FUNCS["cpu"] = allocate


def allocate_host_memory(*args: object, **kwargs: object) -> object:
    """SGLang's own allocation of a host pool."""
    from sglang.srt.mem_cache.pool_host import common

    return common.alloc_with_host_register(*args, **kwargs)


def set_direct_transfer(transfer: Callable[..., None]) -> None:
    """Define the `transfer_kv_direct` that the MHA host pool calls; sgl_kernel has it on GPUs."""
    from sglang.srt.mem_cache.pool_host import mha

    mha.transfer_kv_direct = transfer


def keep_lora_unpinned() -> None:
    """Let adapters be served from ordinary memory: pinned memory is a driver's to give."""
    from sglang.srt.lora import layers
    from sglang.srt.lora.backend import torch_backend

    unpinned: Any = _Unpinned()
    layers.torch = torch_backend.torch = unpinned
    torch.Tensor.pin_memory = lambda tensor, device=None: tensor


class _Unpinned:
    """`torch`, but what it makes is not pinned."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def tensor(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.tensor(*args, **{**kwargs, "pin_memory": False})

    def zeros(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.zeros(*args, **{**kwargs, "pin_memory": False})


def use_gloo_only() -> None:
    """Let the ranks of a CPU engine talk by gloo: SGLang wraps every group in NCCL, which needs
    a GPU."""
    from sglang.srt.distributed import parallel_state

    make_group = parallel_state.init_model_parallel_group

    def make_group_without_nccl(*args: Any, **kwargs: Any) -> Any:
        return make_group(*args, **{**kwargs, "use_pynccl": False})

    parallel_state.init_model_parallel_group = make_group_without_nccl


def register_dense_models() -> None:
    """Register common dense models, so that SGLang does not import all its models to find one.

    That takes 3 s and logs a warning for each model that needs a GPU. Other models are still
    found the usual way (`ModelRegistry.resolve_model_cls`).
    """
    from sglang.srt.models import llama, qwen2, qwen3, registry

    for model in (llama.LlamaForCausalLM, qwen2.Qwen2ForCausalLM, qwen3.Qwen3ForCausalLM):
        registry.ModelRegistry.models.setdefault(model.__name__, model)
