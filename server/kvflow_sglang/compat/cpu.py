"""What SGLang's CPU engine lacks, replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


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
