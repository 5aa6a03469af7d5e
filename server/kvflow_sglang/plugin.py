"""Ties kvflow into SGLang's processes, if the server was asked for it, completely or not at all."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from kvflow_agents.errors import ConfigurationError, IncompatibleServerError
from kvflow_sglang import self_check
from kvflow_sglang.command_line import BACKEND, asks_for_kvflow
from kvflow_sglang.compat import hooks, http_process, names
from kvflow_sglang.compat.hooks import HookRegistry, HookType

# Set for the processes of a server whose door was put in place.
DOOR_VARIABLE = "KVFLOW_DOOR"

logger = logging.getLogger(__name__)


def register() -> None:
    """Entry point of SGLang's plugins, run once in every process before anything is built.

    It only makes the backend known. What changes SGLang happens when a server that was started
    with `--radix-cache-backend kvflow` is built, so other servers of the environment stay stock.
    """
    if multiprocessing.parent_process() is None:
        HookRegistry.register(hooks.LAUNCH_HOOK, _launch, HookType.AROUND)
        if asks_for_kvflow(sys.argv):
            # A hook that fails to apply is only logged by SGLang: look before it is tried.
            _exit_unless(self_check.check_names, names.LAUNCHER_NAMES)
    elif "sglang.srt.managers.scheduler" in sys.modules:
        _register_in_child()


def _register_in_child() -> None:
    """In a scheduler, what is between several and HTTP, or a launcher that is itself a child."""
    from kvflow_sglang import messages
    from kvflow_sglang.compat.radix_cache import register_radix_cache_backend

    if DOOR_VARIABLE in os.environ:
        # The data-parallel controller reads all that it passes on.
        http_process.hook_custom_types(*messages.ALL)

    if "sglang.srt.entrypoints.engine" in sys.modules:
        HookRegistry.register(hooks.LAUNCH_HOOK, _launch, HookType.AROUND)
    register_radix_cache_backend(BACKEND, make_cache)


def make_cache(context: Any) -> Any:
    """Build the radix cache of one scheduler; SGLang's `RadixCacheFactory`.

    IncompatibleServerError, which ends the server, if anything kvflow needs is not there.
    """
    from kvflow_agents.gathering import Gathering
    from kvflow_sglang.cache import KVFlowRadixCache
    from kvflow_sglang.compat import radix_cache, scheduler
    from kvflow_sglang.tree import ClaimedFullComponent, ClaimedTreeCore

    self_check.check_names(names.SCHEDULER_NAMES)
    self_check.check_server(context.server_args)
    if context.is_hybrid_swa or context.is_hybrid_ssm:
        raise IncompatibleServerError(
            "kvflow works with full attention only: this model has sliding-window or state-space "
            "layers; start without --radix-cache-backend kvflow"
        )
    if DOOR_VARIABLE not in os.environ:
        raise IncompatibleServerError(
            "kvflow is not in front of this scheduler, so clients could pass for each other: "
            "start the server by `kvflow serve` or `sglang serve`, or call "
            "`sglang.srt.plugins.load_plugins()` before you launch it"
        )
    _hook_scheduler()
    if radix_cache.get_tree_core_factory(BACKEND) is None:
        radix_cache.register_tree_core_backend(BACKEND, ClaimedTreeCore)
    context.params.tree_core_backend = BACKEND
    context.params.component_registry_override = {radix_cache.FULL: ClaimedFullComponent}
    cache = radix_cache.create_unified_radix_cache(context, cache_class=KVFlowRadixCache)
    if cache.settings.gathers and scheduler.can_hold(context.server_args):
        cache.gathering = Gathering()
    logger.info("kvflow evicts by forecast: %s", cache.settings)
    return cache


def _hook_scheduler() -> None:
    HookRegistry.register(hooks.ARRIVAL_HOOK, _note_arrival, HookType.BEFORE)
    HookRegistry.register(hooks.DISPATCH_HOOK, _add_handlers, HookType.AFTER)
    HookRegistry.register(hooks.ADMISSION_HOOK, _admit_patiently, HookType.AFTER)
    HookRegistry.register(hooks.PASS_HOOK, _next_prefill, HookType.AROUND)
    HookRegistry.register(hooks.RESULT_HOOK, _process_result, HookType.AROUND)
    HookRegistry.register(hooks.LORA_HOOK, _manage_adapters, HookType.AFTER)
    HookRegistry.register(hooks.LORA_BATCH_HOOK, _note_adapters, HookType.BEFORE)
    HookRegistry.apply_hooks()
    self_check.check_hooks(hooks.IN_SCHEDULER)


def _exit_unless(check: Callable[[Any], None], argument: Any) -> None:
    try:
        check(argument)
    except (ConfigurationError, IncompatibleServerError) as error:
        # SGLang logs what plugins raise and goes on; this is not an `Exception`.
        sys.exit(f"kvflow: {error}")


def _launch(
    launch: Callable[..., Any], cls: Any, server_args: Any, *args: Any, **kwargs: Any
) -> Any:
    """Around `Engine._launch_subprocesses`: add endpoints and door before anything runs."""
    if server_args.radix_cache_backend == BACKEND:
        _exit_unless(_prepare_http, server_args)
    return launch(cls, server_args, *args, **kwargs)


def _prepare_http(server_args: Any) -> None:
    from kvflow_sglang import messages, settings
    from kvflow_sglang.doorman import Doorman
    from kvflow_sglang.endpoints import make_router
    from kvflow_sglang.identity import Identity
    from kvflow_sglang.interpreter import Interpreter
    from kvflow_sglang.receipt_header import ReceiptHeader, Wanted
    from kvflow_sglang.replicas import Replicas

    self_check.check_names(names.LAUNCHER_NAMES)
    self_check.check_server(server_args)
    http_process.hook_custom_types(*messages.ALL)
    for name, answer in messages.ANSWERS.items():
        http_process.add_control_message(name, answer)
    given = settings.from_environment()
    doorman = Doorman(allows_nesting=http_process.has_pickle_transport(), identity=Identity(given))
    interpreter = Interpreter(
        doorman.refused,
        settings=given,
        priority_sign=http_process.priority_sign(server_args),
    )
    replicas = (
        Replicas(http_process.tell_schedulers) if http_process.has_replicas(server_args) else None
    )
    wanted = Wanted()
    admit = partial(_admit, doorman, interpreter, replicas, wanted)
    HookRegistry.register(hooks.HTTP_HOOK, admit, HookType.BEFORE)
    HookRegistry.register(hooks.OUTPUT_HOOK, partial(_take_receipt, wanted), HookType.BEFORE)
    HookRegistry.register(hooks.AUTH_HOOK, _let_see_page, HookType.AROUND)
    HookRegistry.apply_hooks()
    self_check.check_hooks(hooks.IN_HTTP_PROCESS)
    every_hook = [*hooks.IN_HTTP_PROCESS, *hooks.IN_SCHEDULER]
    of_all = bool(server_args.admin_api_key)
    router = make_router(doorman, interpreter, every_hook, of_all=of_all)
    http_process.add_routes(http_process.http_app(), router)
    http_process.http_app().add_middleware(ReceiptHeader, wanted=wanted)
    os.environ[DOOR_VARIABLE] = "1"


def _admit(
    doorman: Any,
    interpreter: Any,
    replicas: Any,
    wanted: Any,
    manager: Any,
    obj: Any,
    request: Any = None,
    **kwargs: Any,
) -> None:
    """Before `TokenizerManager.generate_request`, the way of every request to a scheduler."""
    from kvflow_sglang import receipt_header

    body, headers = http_process.json_body(request), http_process.headers_of(request)
    refusals = interpreter.take_envelopes(obj, body), doorman.admit(obj, headers)
    interpreter.take_agent_hints(obj, headers, body)
    receipt_header.ask(request, obj, wanted, next(filter(None, refusals), None))
    if replicas is not None:
        replicas.pass_on(manager, obj)


def _take_receipt(
    wanted: Any,
    manager: Any,
    meta_info: Any,
    state: Any,
    customized_info: Any,
    index: int,
    finish_reason: Any,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Before `TokenizerManager.update_request_meta_info`: receipts are no part of an answer."""
    others = wanted.take(customized_info, index)
    return (manager, meta_info, state, others, index, finish_reason), {}


def _let_see_page(decide: Callable[..., Any], *, method: str, path: str, **kwargs: Any) -> Any:
    """Around `decide_request_auth`: the page asks for the API key, so it is readable without."""
    from kvflow_sglang import dashboard

    if method in ("GET", "HEAD") and path in dashboard.PUBLIC_PATHS:
        return http_process.allow_unauthorized()
    return decide(method=method, path=path, **kwargs)


def _note_arrival(scheduler: Any, request: Any, *args: Any, **kwargs: Any) -> None:
    """Before `Scheduler.handle_generate_request`."""
    scheduler.tree_cache.arrived(request)


def _admit_patiently(adder_class: Any, scheduler: Any) -> Any:
    """After `Scheduler.get_prefill_adder_class`: let requests wait for their loads."""
    from kvflow_sglang.admission import make_patient

    return make_patient(adder_class)


def _manage_adapters(result: Any, scheduler: Any) -> None:
    """After `Scheduler.init_lora_overlap_loader`: evict adapters by forecast from now on."""
    cache = scheduler.tree_cache
    if scheduler.enable_lora and cache.settings.lora:
        from kvflow_sglang.lora import AdapterSlots

        cache.manage_adapters(AdapterSlots(scheduler, cache.settings))


def _next_prefill(find: Callable[..., Any], scheduler: Any, running_batch: Any) -> Any:
    """Around `Scheduler.get_new_batch_prefill`, once in each of its passes."""
    from kvflow_sglang.compat.scheduler import is_idle, no_batch

    _begin_pass(scheduler, running_batch)
    cache, waiting = scheduler.tree_cache, len(scheduler.waiting_queue)
    gathering, idles = cache.gathering, is_idle(scheduler, running_batch)
    if gathering is not None and waiting and idles and gathering.holds(waiting):
        cache.mailbox.hear(1)  # another may come at any moment, and be the last
        return no_batch(running_batch)
    cache.mailbox.hear_in_front()
    plan = find(scheduler, running_batch)
    if plan.batch_to_run is None and idles:
        cache.mailbox.hear_behind()
    elif plan.batch_to_run is not None and gathering is not None:
        gathering.began()
    return plan


def _begin_pass(scheduler: Any, running_batch: Any) -> None:
    cache = scheduler.tree_cache
    cache.begin_pass(running_batch.reqs)
    if cache.lora is not None:
        cache.lora.step(running_batch)
    if cache.metrics is not None:
        cache.metrics.step(is_idle=not scheduler.waiting_queue and running_batch.is_empty())


def _process_result(
    process: Callable[..., Any], scheduler: Any, batch: Any, *args: Any, **kwargs: Any
) -> Any:
    """Around `Scheduler.process_batch_result`, which waits for the device.

    By then the next batch has been launched, and after it the answers of this one are on their way:
    what nothing waits for is done now.
    """
    cache = scheduler.tree_cache
    cache.catch_up(batch.reqs)
    if cache.gathering is not None:
        cache.gathering.ran()
    result = process(scheduler, batch, *args, **kwargs)
    cache.mailbox.hear_behind()
    return result


def _note_adapters(pool: Any, cur_uids: Any, *args: Any, **kwargs: Any) -> None:
    """Before `LoRAMemoryPool.prepare_lora_batch`: these adapters are about to be there."""
    from kvflow_sglang.lora import ForecastEviction

    if isinstance(pool.eviction_policy, ForecastEviction):
        pool.eviction_policy.begin(cur_uids)


def _add_handlers(result: Any, scheduler: Any) -> None:
    """After `Scheduler.init_request_dispatcher`: answer the HTTP process."""
    from kvflow_sglang import messages
    from kvflow_sglang.compat.scheduler import add_handlers

    def hear(message: Any) -> Any:
        return messages.ForecastAnswer(outcome=scheduler.tree_cache.hear(messages.to_hint(message)))

    def overhear(message: Any) -> None:
        scheduler.tree_cache.overhear(messages.noticed_hint(message))

    def status(message: Any) -> Any:
        return messages.StatusAnswer(counts=scheduler.tree_cache.status())

    def receipts(message: Any) -> Any:
        scheduler.tree_cache.mailbox.hear_all()
        return messages.answer_receipts(scheduler.tree_cache.tenants, message)

    def view(message: Any) -> Any:
        scheduler.tree_cache.mailbox.hear_all()
        return messages.answer_view(scheduler.tree_cache.view, message)

    handlers: dict[type, Callable[[Any], Any]] = {
        messages.ForecastRequest: hear,
        messages.ForecastNotice: overhear,
        messages.StatusRequest: status,
        messages.ReceiptsRequest: receipts,
        messages.ViewRequest: view,
    }
    add_handlers(scheduler, handlers)
    _publish_metrics(scheduler)


def _publish_metrics(scheduler: Any) -> None:
    """Where SGLang publishes its scheduler's metrics; other ranks would say the same again."""
    from kvflow_sglang.compat.scheduler import publishes_metrics

    collector = scheduler.tree_cache.metrics_collector
    if collector is not None and publishes_metrics(scheduler):
        from kvflow_sglang.metrics import Metrics

        scheduler.tree_cache.metrics = Metrics(scheduler.tree_cache, collector.labels)
