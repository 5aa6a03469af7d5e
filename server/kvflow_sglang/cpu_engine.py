"""What stock SGLang needs to serve on a plain x86 CPU, with both cache tiers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# A folder, not a package: it goes on PYTHONPATH ahead of site-packages.
STAND_IN_FOLDER = Path(__file__).parent / "_stand_in"

# HiCache leaves 10 GiB of host memory free, which is all that many laptops have.
HOST_MEMORY_RESERVE_BYTES = 1 << 30

CORES_VARIABLE = "SGLANG_CPU_OMP_THREADS_BIND"
MODELS_VARIABLE = "SGLANG_EXTERNAL_MODEL_PACKAGE"
DENSE_MODELS = "kvflow_sglang.compat.dense_models"

Flags = dict[str, str | None]


def environment(env: Mapping[str, str], *, ranks: int = 1) -> dict[str, str]:
    """The variables to set so that SGLang picks its CPU engine and can be imported."""
    python_path = env.get("PYTHONPATH")
    folders = [str(STAND_IN_FOLDER)] + ([python_path] if python_path else [])
    shared = {} if ranks == 1 or CORES_VARIABLE in env else {CORES_VARIABLE: cores_of(ranks)}
    return shared | {
        "SGLANG_USE_CPU_ENGINE": "1",
        MODELS_VARIABLE: env.get(MODELS_VARIABLE, DENSE_MODELS),
        # A GPU that is there but not wanted must not be found by torch.
        "CUDA_VISIBLE_DEVICES": "",
        # SGLang's processes import `sgl_kernel` before they load plugins.
        "PYTHONPATH": os.pathsep.join(folders),
    }


def cores_of(ranks: int) -> str:
    """The cores of each rank, which SGLang wants to be told if there are more than sockets."""
    cores = sorted(os.sched_getaffinity(0))
    shares = [cores[rank::ranks] or [cores[rank % len(cores)]] for rank in range(ranks)]
    return "|".join(",".join(map(str, share)) for share in shares)


def flags(*, host_tier: bool) -> Flags:
    """The flags of `sglang serve` that a CPU needs, and those that keep it small and quick."""
    chosen: Flags = {
        "--device": "cpu",
        # The default for CPUs calls AMX kernels.
        "--attention-backend": "torch_native",
        "--sampling-backend": "pytorch",
        # The others are Triton kernels.
        "--lora-backend": "torch_native",
        # Plain x86 has no arithmetic in half precision, which `auto` would pick.
        "--dtype": "float32",
        # There is nothing to capture on a CPU.
        "--cuda-graph-backend-decode": "disabled",
        "--cuda-graph-backend-prefill": "disabled",
        # As shipped, the pool takes 72% of the machine's memory, and the host tier twice that.
        "--max-total-tokens": "32768",
        # A row of the request table holds a whole context; more at once would crawl anyway.
        "--max-running-requests": "32",
        # An idle scheduler would keep a core busy that the application needs.
        "--sleep-on-idle": None,
    }
    if host_tier:
        # The only pair of transfer and layout that is a plain copy of rows, one per token.
        chosen |= {
            "--hicache-io-backend": "direct",
            "--hicache-mem-layout": "layer_first",
            "--page-size": "1",
        }
    return chosen


def register() -> None:
    """Entry point of the SGLang plugin `kvflow_cpu`: the CPU engine alone, without kvflow."""
    # SGLang loads plugins in each of its processes; only this one has models and caches.
    if "sglang.srt.managers.scheduler" in sys.modules:
        from kvflow_sglang.compat import cpu

        if os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
            substitute_transfers()
            cpu.keep_lora_unpinned()
            cpu.use_gloo_only()


def substitute_transfers() -> None:
    """Let HiCache run without a GPU."""
    from kvflow_sglang.compat import cpu

    cpu.set_host_memory_reserve(HOST_MEMORY_RESERVE_BYTES)
    cpu.set_cpu_host_allocation(_allocate_unpinned)
    cpu.set_direct_transfer(copy_rows)


def copy_rows(
    *,
    src_layers: Sequence[torch.Tensor],
    dst_layers: Sequence[torch.Tensor],
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    page_size: int,
) -> None:
    """Copy the KV rows of some tokens from each source layer to its destination layer.

    Indices are of tokens whatever `page_size`, so pages need no care here. Synchronous, so that
    neither the order of streams nor an event matters.
    """
    del page_size
    for source, destination in zip(src_layers, dst_layers, strict=True):
        destination[dst_indices] = source[src_indices]


def _allocate_unpinned(*args: object, **kwargs: object) -> object:
    from kvflow_sglang.compat import cpu

    return cpu.allocate_host_memory(*args, **{**kwargs, "pin_memory": False})
