"""Where kvflow hooks into SGLang's processes."""

from __future__ import annotations

from collections.abc import Set

from sglang.srt.plugins.hook_registry import HookRegistry, HookType

__all__ = ["HookRegistry", "HookType"]

HTTP_HOOK = "sglang.srt.managers.tokenizer_manager.TokenizerManager.generate_request"
OUTPUT_HOOK = "sglang.srt.managers.tokenizer_manager.TokenizerManager.update_request_meta_info"
LAUNCH_HOOK = "sglang.srt.entrypoints.engine.Engine._launch_subprocesses"
AUTH_HOOK = "sglang.srt.utils.auth.decide_request_auth"
IN_HTTP_PROCESS = [LAUNCH_HOOK, HTTP_HOOK, OUTPUT_HOOK, AUTH_HOOK]

ARRIVAL_HOOK = "sglang.srt.managers.scheduler.Scheduler.handle_generate_request"
DISPATCH_HOOK = "sglang.srt.managers.scheduler.Scheduler.init_request_dispatcher"
ADMISSION_HOOK = "sglang.srt.managers.scheduler.Scheduler.get_prefill_adder_class"
PASS_HOOK = "sglang.srt.managers.scheduler.Scheduler.get_new_batch_prefill"
RESULT_HOOK = "sglang.srt.managers.scheduler.Scheduler.process_batch_result"
LORA_HOOK = "sglang.srt.managers.scheduler.Scheduler.init_lora_overlap_loader"
LORA_BATCH_HOOK = "sglang.srt.lora.mem_pool.LoRAMemoryPool.prepare_lora_batch"
IN_SCHEDULER = [
    ARRIVAL_HOOK,
    DISPATCH_HOOK,
    ADMISSION_HOOK,
    PASS_HOOK,
    RESULT_HOOK,
    LORA_HOOK,
    LORA_BATCH_HOOK,
]


def applied() -> Set[str]:
    """The hooks that SGLang has really applied in this process: of one that fails it only logs."""
    targets: Set[str] = HookRegistry._patched
    return targets
