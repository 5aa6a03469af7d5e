"""SGLang's copies between the tiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sglang.srt.managers.cache_controller import CacheOperation
from sglang.srt.mem_cache.hicache_storage import PoolName
from sglang.srt.mem_cache.l2_transfer import L2TransferEngine
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost

from kvflow_sglang.compat.radix_cache import agreed

__all__ = ["MHATokenToKVPoolHost"]

# SGLang's own threshold for copies that are worth a call each (`kvcacheio/staged_write_back.cuh`).
_LARGE_COPY_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy to the device that has been submitted."""

    start_event: Any
    finish_event: Any
    is_timed: bool
    tokens: int
    size_bytes: int


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


def agree_on_finished(cache: Any, acks: Sequence[Any]) -> int:
    """How many of these copies, from the first on, are done on every rank."""
    finished = agreed(cache, cache._count_ready_acks(acks))
    for ack in acks[:finished]:
        ack.finish_event.synchronize()
    return finished


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
