"""A radix cache without a server, a model or a GPU: for tests and benchmarks of the policy.

It runs requests through the same calls as SGLang's scheduler does. The KV of a token is the token
itself, so that a request which is given wrong or unfinished KV is caught.
"""

from __future__ import annotations

import atexit
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

from kvflow_agents.hints import TENANT_FIELD, Hint, encode_request
from kvflow_agents.tenants import Tenant
from kvflow_sglang import cpu_engine
from kvflow_sglang.command_line import BACKEND
from kvflow_sglang.compat import radix_cache

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
    lora_id: str | None = None
    session: None = None
    session_id: str | None = None
    session_params: None = None
    kv_rotation_base: None = None
    full_untruncated_fill_ids: array[int] = field(default_factory=lambda: array("q"))
    is_finished: bool = False
    finished_reason: Any = None
    to_finish: Any = None
    retracted_stain: bool = False
    cached_tokens_device: int = 0
    cached_tokens_host: int = 0
    lock: Any = None
    last_node: int = 0
    kv: Any = None
    customized_info: dict[str, list[Any]] | None = None

    @property
    def input_ids(self) -> array[int]:
        return self.origin_input_ids

    def finished(self) -> bool:
        return self.is_finished


class StandaloneCache:
    """KV slots, in CPU memory both tiers, behind a radix cache of the given core."""

    def __init__(
        self, core: Core, *, pool_tokens: int, page_size: int = 1, host_ratio: float | None = None
    ) -> None:
        """With a host tier of `host_ratio` times the device pool, or without one."""
        server_args = _server_args(page_size, host_ratio)
        set_global_server_args_for_scheduler(server_args)
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
            tree_components=(radix_cache.FULL,),
            tree_core_backend=BACKEND if core == "kvflow" else core,
        )
        self.cache: Any = _make_cache(core, params)
        self.kv_pool: Any = kv_pool
        self.evicted_tokens = 0
        self.requests = 0
        self._is_kvflow = core == "kvflow"
        if host_ratio is not None:
            cpu_engine.substitute_transfers()
            self.cache.init_hicache(server_args, params)
            # SGLang wants to be shut down at exit, by which time its logger is gone.
            atexit.unregister(self.cache.shutdown)

    def run(
        self,
        prompt: Iterable[int],
        answer: Iterable[int] = (),
        *,
        hint: Hint | None = None,
        extra_key: str | None = None,
        session_id: str | None = None,
        custom_params: dict[str, Any] | None = None,
        loads: bool = True,
        tenant: Tenant = None,
        lora_id: str | None = None,
    ) -> int:
        """Serve one request; how many tokens of its prompt were cached.

        Without `loads` what is on the host only is computed again.
        """
        request = self.arrive(
            prompt,
            hint=hint,
            extra_key=extra_key,
            session_id=session_id,
            custom_params=custom_params,
            tenant=tenant,
            lora_id=lora_id,
        )
        return self.serve(request, answer, loads=loads)

    def arrive(
        self,
        prompt: Iterable[int],
        *,
        hint: Hint | None = None,
        extra_key: str | None = None,
        session_id: str | None = None,
        custom_params: dict[str, Any] | None = None,
        tenant: Tenant = None,
        lora_id: str | None = None,
    ) -> Request:
        """A request comes, and waits to be served."""
        self.requests += 1
        request = Request(
            array("q", prompt),
            SimpleNamespace(custom_params=_params(hint, custom_params, tenant)),
            extra_key=extra_key,
            session_id=session_id,
            lora_id=lora_id,
            rid=str(self.requests),
            kv=SimpleNamespace(req_pool_idx=1, cache_protected_len=0, cache_inserted_len=0),
        )
        if self._is_kvflow:
            self.cache.arrived(request)
            self.cache.mailbox.hear_all()
        return request

    def serve(self, request: Request, answer: Iterable[int] = (), *, loads: bool = True) -> int:
        """Serve a request that has come; how many tokens of its prompt were cached."""
        cached_tokens = self._prefill(request, loads)
        self._decode(request, array("q", answer))
        return cached_tokens

    def one_pass(self) -> None:
        """What the scheduler does before it admits requests."""
        if self._is_kvflow:
            self.cache.begin_pass()
        if self.cache.cache_controller is not None:
            self.cache.check_hicache_events()

    def evict(self, tokens: int) -> int:
        """Evict as an allocation of so many tokens would; how many were evicted."""
        evicted: int = self.cache.evict(EvictParams(num_tokens=tokens)).num_tokens_evicted
        self.evicted_tokens += evicted
        return evicted

    def match(self, tokens: Iterable[int], extra_key: str | None = None) -> Any:
        """What is cached of a sequence, on the device and on the host."""
        key = radix_cache.RadixKey(array("q", tokens), extra_key)
        return self.cache.match_prefix(MatchPrefixParams(key=key))

    def _prefill(self, request: Request, loads: bool) -> int:
        self.one_pass()
        tokens = request.origin_input_ids
        # The last token is computed in any case: its logits are needed.
        match = self.match(tokens[:-1], request.extra_key)
        if loads and match.host_hit_length and self.cache.load_back(match.best_match_node):
            self.cache.ready_to_load_host_cache()
            self.one_pass()
            request.cached_tokens_host = match.host_hit_length
            match = self.match(tokens[:-1], request.extra_key)
        request.last_node = match.last_device_node
        request.lock = self.cache.lock(match.last_device_node)
        cached: int = match.device_prefix_len
        request.kv.cache_protected_len = cached
        request.cached_tokens_device = cached - request.cached_tokens_host
        slots = self.cache.path_device_indices(match.last_device_node)
        assert self.kv(slots) == list(tokens[:cached]), "a request has read what is not its KV"
        self._write(request, 0, slots)
        self._compute(request, cached, tokens[cached:])
        request.full_untruncated_fill_ids = tokens
        self.cache.checkpoint(request, up_to=len(tokens))
        return cached

    def _decode(self, request: Request, answer: array[int]) -> None:
        prompt_tokens = len(request.origin_input_ids)
        # Between two tokens the scheduler may begin and end loads.
        for place in range(len(answer)):
            self.one_pass()
            self._compute(request, prompt_tokens + place, answer[place : place + 1])
        request.full_untruncated_fill_ids = request.origin_input_ids + answer
        request.is_finished = True
        total_tokens = len(request.full_untruncated_fill_ids)
        self.cache.checkpoint(request, up_to=total_tokens)
        # What no whole page holds goes back.
        kept_tokens = request.kv.cache_protected_len
        if kept_tokens < total_tokens:
            self.allocator.free(self.rows.req_to_token[1, kept_tokens:total_tokens].long())
        self.cache.unlock(request.lock)
        self.one_pass()

    def kv(self, slots: Any) -> list[int]:
        """The tokens whose KV these slots hold."""
        held: list[int] = self.kv_pool.k_buffer[0][slots.long(), 0, 0].long().tolist()
        return held

    def _compute(self, request: Request, start: int, tokens: array[int]) -> None:
        if tokens:
            slots = self._allocate(len(tokens))
            self._write(request, start, slots)
            self._fill(slots, tokens)

    def _fill(self, slots: Any, tokens: array[int]) -> None:
        """What the model does on a server."""
        values = torch.tensor(tokens, dtype=torch.float32)
        self.kv_pool.k_buffer[0][slots.long(), 0, 0] = values

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


def _params(
    hint: Hint | None, custom_params: dict[str, Any] | None, tenant: Tenant
) -> dict[str, Any] | None:
    """As the door of a server lets them pass."""
    params = custom_params if hint is None else encode_request(hint)
    return params if tenant is None else {**(params or {}), TENANT_FIELD: tenant}


def _server_args(page_size: int, host_ratio: float | None) -> Any:
    if host_ratio is None:
        return ServerArgs(model_path="dummy", device="cpu", page_size=page_size)
    return ServerArgs(
        model_path="dummy",
        device="cpu",
        page_size=page_size,
        enable_hierarchical_cache=True,
        hicache_ratio=host_ratio,
        hicache_write_policy="write_through",
        hicache_io_backend="direct",
        hicache_mem_layout="layer_first",
    )


def _make_cache(core: Core, params: Any) -> Any:
    if core != "kvflow":
        return radix_cache.UnifiedRadixCache(params)
    from kvflow_sglang.cache import KVFlowRadixCache
    from kvflow_sglang.tree import ClaimedFullComponent, ClaimedTreeCore

    if radix_cache.get_tree_core_factory(BACKEND) is None:
        radix_cache.register_tree_core_backend(BACKEND, ClaimedTreeCore)
    overrides: Mapping[Any, type] = {radix_cache.FULL: ClaimedFullComponent}
    params.component_registry_override = overrides
    return KVFlowRadixCache(params)
