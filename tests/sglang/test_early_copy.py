"""An early copy as one launch: the same call as SGLang's layer loop makes, for all layers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from sglang.kernels.ops.kvcache import hicache

from kvflow_sglang.compat import copies
from kvflow_sglang.compat.copies import MHATokenToKVPoolHost

LAYERS = 3


def transfer(**changes: Any) -> Any:
    pool: Any = object.__new__(MHATokenToKVPoolHost)
    pool.layer_num = pool.target_layer_num = LAYERS
    pool.can_use_jit, pool.layout, pool.page_size = True, "page_first", 1
    pool.layout_dim, pool.token_stride_size = 48, 16
    pool._strided_device_row_bytes = None
    pool.device_k_data_ptrs, pool.device_v_data_ptrs = "device k", "device v"
    pool.k_data_ptrs, pool.v_data_ptrs = "host k", "host v"
    made = {"layer_mapper": lambda layer: layer, "is_draft": False} | changes
    for name in ("layout", "can_use_jit", "target_layer_num"):
        if name in made:
            setattr(pool, name, made.pop(name))
    return SimpleNamespace(host_pool=pool, **made)


@pytest.mark.parametrize(("layout", "source_stride"), [("page_first", 48), ("layer_first", 16)])
def test_all_layers_are_copied_by_one_kernel(
    layout: str, source_stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[dict[str, Any]] = []
    monkeypatch.setattr(hicache, "transfer_hicache_all_layer", lambda **call: launched.append(call))
    pool = copies._AllLayersAtOnce(transfer(layout=layout).host_pool)
    for layer in range(LAYERS):
        pool.load_to_device_per_layer_physical(None, "from", "to", layer, "kernel", is_draft=False)
    assert launched == [
        {
            "k_ptr_dst": "device k",
            "v_ptr_dst": "device v",
            "indices_dst": "to",
            "k_ptr_src": "host k",
            "v_ptr_src": "host v",
            "indices_src": "from",
            "kv_cache_src_stride_bytes": source_stride,
            "kv_cache_dst_stride_bytes": 16,
            "element_size": 16,
            "page_size": 1,
        }
    ]


def test_a_plain_pool_is_copied_at_once() -> None:
    assert copies._is_plain(transfer(), LAYERS)
    assert copies._is_plain(transfer(layer_mapper=None), LAYERS)


@pytest.mark.parametrize(
    "changes",
    [
        {"can_use_jit": False},
        {"layout": "page_head"},
        {"target_layer_num": LAYERS - 1},
        {"is_draft": True},
        {"layer_mapper": lambda layer: layer + 1},
    ],
)
def test_anything_else_is_copied_as_sglang_does(changes: dict[str, Any]) -> None:
    assert not copies._is_plain(transfer(**changes), LAYERS)
