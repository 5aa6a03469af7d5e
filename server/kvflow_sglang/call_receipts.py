"""The receipt of a call: where its prompt was found when it was admitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvflow_agents.call_receipt import Admission, Call
from kvflow_agents.hints import RECEIPT_FIELD, Hint
from kvflow_agents.tenants import Tenant
from kvflow_sglang.compat.scheduler import cached_tokens, send_beside_output
from kvflow_sglang.messages import to_json


def admission_of(
    cache: Any, req: Any, caller: Hint | None, tenant: Tenant, prefetched_tokens: int
) -> Admission:
    """Where the prompt of a request was found, of which so much had been loaded ahead."""
    device_tokens, host_tokens = cached_tokens(req)
    prefetcher = cache.prefetcher
    return Admission(
        prompt_tokens=len(req.origin_input_ids),
        device_tokens=device_tokens,
        host_tokens=host_tokens,
        prefetched_tokens=prefetched_tokens,
        waited=prefetcher is not None and prefetcher.has_waited(req),
        late_tokens=0 if prefetcher is None else prefetcher.late_tokens(req),
        lost_tokens=_lost_tokens(cache, req, caller, device_tokens + host_tokens),
        clipped=cache.tree_core.clips(tenant),
    )


def send(call: Call | None, req: Any) -> None:
    """Let a call's receipt go to a client that has asked for it."""
    custom_params = req.sampling_params.custom_params
    number = custom_params.get(RECEIPT_FIELD) if isinstance(custom_params, Mapping) else None
    if call is not None and number is not None:
        send_beside_output(req, RECEIPT_FIELD, (number, to_json(call.as_json())))


def _lost_tokens(cache: Any, req: Any, caller: Hint | None, cached_tokens: int) -> int:
    """How much of a caller's prefix, as it is remembered, was nowhere to be found."""
    if caller is None or caller.agent is None:
        return 0
    foresight = cache.tenants.of(caller.tenant).foresight
    prefix = foresight.prefix_of(caller.workflow, caller.agent)
    # The last token of a prompt is computed in any case.
    most_tokens = len(req.origin_input_ids) - 1
    if prefix is None or min(len(prefix), most_tokens) - cached_tokens < cache.page_size:
        return 0
    if req.origin_input_ids[: len(prefix)] != prefix:
        return 0  # not what it said before: nobody has evicted that
    whole_pages: int = min(len(prefix), most_tokens) // cache.page_size * cache.page_size
    return max(0, whole_pages - cached_tokens)
