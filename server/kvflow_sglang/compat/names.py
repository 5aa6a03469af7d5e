"""The names that are hooked or used, and what they must look like; `self_check` looks at all."""

from __future__ import annotations

SGLANG_VERSION = "0.5.23"

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
    f"{_TREE}._is_device_leaf": "self node",
    f"{_TREE}._is_host_leaf": "self node",
    f"{_TREE}._demote": "self node tracker device_frees host_frees cache_actions",
    f"{_TREE}._delete_unbacked_device_leaf": (
        "self node tracker device_frees host_frees cache_actions"
    ),
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
    "sglang.srt.managers.schedule_batch:NextBatchPlan": "batch_to_run running_batch",
    "sglang.srt.server_args:ServerArgs.pp_size": None,
    "sglang.srt.server_args:ServerArgs.enable_dp_attention": None,
    "sglang.srt.server_args:ServerArgs.disaggregation_mode": None,
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
    "sglang.srt.managers.schedule_batch:FINISH_ABORT": None,
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
