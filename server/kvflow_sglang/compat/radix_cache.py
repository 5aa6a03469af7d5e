"""SGLang's radix cache, its tree, and how both are registered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sglang.srt.mem_cache.base_prefix_cache import EvictParams
from sglang.srt.mem_cache.hicache_storage import PoolName, PoolTransfer
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

__all__ = [
    "EvictParams",
    "FullComponent",
    "RadixKey",
    "UnifiedRadixCache",
    "UnifiedTreeCore",
    "create_unified_radix_cache",
    "get_tree_core_factory",
    "register_radix_cache_backend",
    "register_tree_core_backend",
]

FULL = ComponentType.FULL


def accesses() -> float:
    """The count by which SGLang orders accesses to nodes of its trees."""
    count: float = get_and_increase_time_counter()
    return count


def host_value(node: Any) -> Any:
    """Where the host tier keeps a node's KV: an index for each token."""
    return node.component_data[FULL].host_value


def back_up(cache: Any, node_id: int) -> None:
    """Copy a node, and those above it that the host lacks, to the host tier."""
    cache._execute_and_commit_kv_backup(cache.tree_core.build_backup_kv_action(node_id))


def commit_load(cache: Any, anchor_id: int, nodes: Sequence[Any], slots: Any) -> None:
    """Give nodes of one path, uppermost first, the slots that hold their KV now."""
    loaded = PoolTransfer(name=PoolName.KV, nodes_to_load=[node.id for node in nodes])
    tree = cache.tree_core
    cache._apply_cache_actions(tree.commit_load_back(anchor_id, slots, loaded, {}))
    tree.finish_load_back(anchor_id)


def agreed(cache: Any, count: int) -> int:
    """The least of the counts of all ranks."""
    least = torch.tensor(count, dtype=torch.int, device="cpu")
    cache._all_reduce(least, torch.distributed.ReduceOp.MIN)
    return int(least.item())
