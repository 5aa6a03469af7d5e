"""SGLang's scheduler and its requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sglang.srt.managers.schedule_batch import FINISH_ABORT, NextBatchPlan
from sglang.srt.managers.schedule_policy import AddReqResult, PrefillAdder

__all__ = ["AddReqResult", "PrefillAdder"]


def add_handlers(scheduler: Any, handlers: Mapping[type, Callable[[Any], Any]]) -> None:
    """Let a scheduler answer more kinds of control messages."""
    from sglang.utils import TypeBasedDispatcher

    scheduler._request_dispatcher += TypeBasedDispatcher(list(handlers.items()))


def send_beside_output(req: Any, name: str, value: object) -> None:
    """Let a value go to the HTTP process beside a request's first output: no message more."""
    req.customized_info = {**(req.customized_info or {}), name: [value]}


def cached_tokens(req: Any) -> tuple[int, int]:
    """How many tokens of a request were found on the device, and on the host; once admitted."""
    return req.cached_tokens_device, req.cached_tokens_host


def is_aborted(req: Any) -> bool:
    """Whether a request was given up: one that SGLang refuses has a token for a prompt by then."""
    return isinstance(req.finished_reason or req.to_finish, FINISH_ABORT)


def was_retracted(req: Any) -> bool:
    """Whether a request is computed again, because others had needed its room."""
    was: bool = req.retracted_stain
    return was


def tokens_to_write(requests: Sequence[Any], most_tokens: int) -> int:
    """How many slots running requests may still take for their answers, of each so many at most."""
    return sum(
        min(max(each.sampling_params.max_new_tokens - len(each.output_ids), 0), most_tokens)
        for each in requests
    )


def can_hold(server_args: Any) -> bool:
    """Whether an idle scheduler may leave requests in its queue for a while.

    With pipeline or attention data parallelism others would wait for it.
    """
    return (
        server_args.pp_size == 1
        and not server_args.enable_dp_attention
        and server_args.disaggregation_mode == "null"
    )


def is_idle(scheduler: Any, running_batch: Any) -> bool:
    """Whether nothing runs that a new request could join or would interrupt."""
    return scheduler.chunked_req is None and bool(running_batch.is_empty())


def no_batch(running_batch: Any) -> NextBatchPlan:
    """The plan of a pass that admits nobody."""
    return NextBatchPlan(batch_to_run=None, running_batch=running_batch)


def adapters_needed(scheduler: Any, running_batch: Any) -> frozenset[str | None]:
    """The adapters of all requests that run or wait; of those in the last batch too.

    A request of the last batch may be found finished while the batch after it still runs.
    """
    last = scheduler.last_batch.reqs if scheduler.last_batch is not None else []
    chunked = [scheduler.chunked_req] if scheduler.chunked_req is not None else []
    every = (*running_batch.reqs, *last, *chunked, *scheduler.waiting_queue)
    return frozenset(req.lora_id for req in every)


def publishes_metrics(scheduler: Any) -> bool:
    """Whether a scheduler is of those whose metrics SGLang publishes."""
    publishes: bool = scheduler.metrics_collector_context.current_scheduler_metrics_enabled
    return publishes
