"""A radix cache without a server, a model or a GPU: for tests and benchmarks of the policy.

It runs requests through the same calls as SGLang's scheduler does, but computes nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import torch
from sglang.srt.mem_cache.allocator import TokenToKVPoolAllocator
from sglang.srt.mem_cache.base_prefix_cache import EvictParams, MatchPrefixParams
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, ReqToTokenPool
from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler

from kvflow_agents.hints import Hint, encode_request
from kvflow_sglang import compat
from kvflow_sglang.plugin import BACKEND

Core = Literal["kvflow", "python", "rust"]
MAX_CONTEXT_TOKENS = 65_536


@dataclass(eq=False)
class Request:
    """As much of SGLang's `Req` as the cache looks at."""

    origin_input_ids: array[int]
    sampling_params: Any
    extra_key: str | None = None
    cache_salt: str | None = None
    rid: str = "standalone"
    priority: int = 0
    session: None = None
    session_id: None = None
    kv_rotation_base: None = None
    full_untruncated_fill_ids: array[int] = field(default_factory=lambda: array("q"))
    is_finished: bool = False
    lock: Any = None
    last_node: int = 0
    kv: Any = None

    def finished(self) -> bool:
        return self.is_finished


class StandaloneCache:
    """One tier of KV slots behind a radix cache of the given core."""

    def __init__(self, core: Core, *, pool_tokens: int, page_size: int = 1) -> None:
        set_global_server_args_for_scheduler(
            ServerArgs(model_path="dummy", device="cpu", page_size=page_size)
        )
        kv_pool = MHATokenToKVPool(
            size=pool_tokens,
            page_size=page_size,
            dtype=torch.float32,
            head_num=1,
            head_dim=1,
            layer_num=1,
            device="cpu",
            enable_memory_saver=False,
        )
        self.allocator: Any = TokenToKVPoolAllocator(
            size=pool_tokens, dtype=torch.float32, device="cpu", kvcache=kv_pool, need_sort=False
        )
        self.rows: Any = ReqToTokenPool(
            size=4, max_context_len=MAX_CONTEXT_TOKENS, device="cpu", enable_memory_saver=False
        )
        params = CacheInitParams(
            disable=False,
            req_to_token_pool=self.rows,
            token_to_kv_pool_allocator=self.allocator,
            page_size=page_size,
            tree_components=(compat.FULL,),
            tree_core_backend=BACKEND if core == "kvflow" else core,
        )
        self.cache: Any = _make_cache(core, params)
        self.evicted_tokens = 0

    def run(
        self,
        prompt: Iterable[int],
        answer: Iterable[int] = (),
        *,
        hint: Hint | None = None,
        extra_key: str | None = None,
    ) -> int:
        """Serve one request; how many tokens of its prompt were cached."""
        custom_params = None if hint is None else encode_request(hint)
        if hint is not None:
            self.cache.hear_request(custom_params)
        request = Request(
            array("q", prompt),
            SimpleNamespace(custom_params=custom_params),
            extra_key=extra_key,
            kv=SimpleNamespace(req_pool_idx=1, cache_protected_len=0, cache_inserted_len=0),
        )
        cached_tokens = self._prefill(request)
        self._decode(request, array("q", answer))
        return cached_tokens

    def evict(self, tokens: int) -> int:
        """Evict as an allocation of so many tokens would; how many were evicted."""
        evicted: int = self.cache.evict(EvictParams(num_tokens=tokens)).num_tokens_evicted
        self.evicted_tokens += evicted
        return evicted

    def _prefill(self, request: Request) -> int:
        tokens = request.origin_input_ids
        # The last token is computed in any case: its logits are needed.
        key = compat.RadixKey(tokens[:-1], request.extra_key)
        match = self.cache.match_prefix(MatchPrefixParams(key=key))
        request.last_node = match.last_device_node
        request.lock = self.cache.lock(match.last_device_node)
        cached: int = match.device_prefix_len
        request.kv.cache_protected_len = cached
        slots = self.cache.path_device_indices(match.last_device_node)
        self._write(request, 0, torch.cat([slots, self._allocate(len(tokens) - cached)]))
        request.full_untruncated_fill_ids = tokens
        self.cache.checkpoint(request, up_to=len(tokens))
        return cached

    def _decode(self, request: Request, answer: array[int]) -> None:
        prompt_tokens = len(request.origin_input_ids)
        if answer:
            self._write(request, prompt_tokens, self._allocate(len(answer)))
        request.full_untruncated_fill_ids = request.origin_input_ids + answer
        request.is_finished = True
        total_tokens = len(request.full_untruncated_fill_ids)
        self.cache.checkpoint(request, up_to=total_tokens)
        # What no whole page holds goes back.
        kept_tokens = request.kv.cache_protected_len
        if kept_tokens < total_tokens:
            self.allocator.free(self.rows.req_to_token[1, kept_tokens:total_tokens].long())
        self.cache.unlock(request.lock)

    def _allocate(self, tokens: int) -> Any:
        shortfall = tokens - self.allocator.available_size()
        if shortfall > 0:
            self.evict(shortfall)
        slots = self.allocator.alloc(tokens)
        assert slots is not None, f"no room for {tokens} tokens"
        return slots

    def _write(self, request: Request, start: int, slots: Any) -> None:
        stop = start + len(slots)
        self.rows.write((request.kv.req_pool_idx, slice(start, stop)), slots.to(torch.int32))


def _make_cache(core: Core, params: Any) -> Any:
    if core != "kvflow":
        return compat.UnifiedRadixCache(params)
    from kvflow_sglang.cache import KVFlowRadixCache
    from kvflow_sglang.tree import ClaimedFullComponent, ClaimedTreeCore

    if compat.get_tree_core_factory(BACKEND) is None:
        compat.register_tree_core_backend(BACKEND, ClaimedTreeCore)
    overrides: Mapping[Any, type] = {compat.FULL: ClaimedFullComponent}
    params.component_registry_override = overrides
    return KVFlowRadixCache(params)
