"""The radix cache backend `kvflow`: SGLang's unified radix cache, told what comes next."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from kvflow_agents.app_prompts import Namespace
from kvflow_agents.claims import Key
from kvflow_agents.errors import HintError
from kvflow_agents.eviction import Standing
from kvflow_agents.foresight import Foresight, Heard, Outcome
from kvflow_agents.gathering import Gathering
from kvflow_agents.hints import (
    FIELD,
    Hint,
    decode_caller,
    decode_request,
    tenant_in,
)
from kvflow_agents.lora_ledger import AdapterLedger
from kvflow_agents.prefetch import SPARE_TOKENS, PrefetchQueue
from kvflow_agents.reuse import MessageClock, Reuse
from kvflow_agents.tenants import Tenant, scoped
from kvflow_agents.workflow_memory import Limits
from kvflow_sglang.call_receipts import admission_of, send
from kvflow_sglang.compat.copies import back_up_in_one_launch
from kvflow_sglang.compat.radix_cache import (
    EvictParams,
    RadixKey,
    UnifiedRadixCache,
    accesses,
    back_up,
)
from kvflow_sglang.compat.scheduler import is_aborted, tokens_to_write, was_retracted
from kvflow_sglang.inferred import InferredCallers
from kvflow_sglang.lora import AdapterSlots
from kvflow_sglang.mailbox import Mailbox
from kvflow_sglang.metrics import Metrics
from kvflow_sglang.prefetcher import Prefetcher
from kvflow_sglang.settings import Settings, from_environment
from kvflow_sglang.tenancy import Tenants
from kvflow_sglang.tree import ClaimedTreeCore, Displacement, Node, Tier, Writer
from kvflow_sglang.view import View


class KVFlowRadixCache(UnifiedRadixCache):
    """Learns prefixes from hinted requests and evicts by their forecasts.

    Everything it decides follows from requests and control messages, which every rank gets in
    the same order: ranks agree without talking to each other.
    """

    tree_core: ClaimedTreeCore
    prefetcher: Prefetcher | None = None
    """None without a host tier."""
    inferred: InferredCallers | None = None
    """None if requests without a hint are left alone."""
    lora: AdapterSlots | None = None
    """None without LoRA adapters, or where they are left to SGLang."""
    gathering: Gathering | None = None
    """None where requests wait for nobody."""
    spare_tokens: int = 0
    """What running requests are about to write, as far as loads ahead leave room for it."""
    metrics: Metrics | None = None
    """None without `--enable-metrics`, and on ranks that publish none."""

    def __init__(self, params: Any) -> None:
        self.settings: Settings = from_environment()
        self._prefetch_queue = _make_queue(self.settings, params.page_size)
        self.outcomes: Counter[str] = Counter()
        self.evicted_tokens: Counter[tuple[Tier, Standing]] = Counter()
        self.tenants = Tenants(self.settings)
        self.view = View(self)
        self.mailbox = Mailbox(self._open)
        super().__init__(params)

    def reset(self) -> None:
        if self.prefetcher is not None:
            self.prefetcher.abandon()
        super().reset()
        if self._prefetch_queue is not None:
            self._prefetch_queue.clear()
        self.tree_core.on_evict = self._note_eviction
        # A host tier may be added later.
        self.tree_core.evicts_parts = lambda: (
            self.prefetcher is None and self.settings.order == "time"
        )
        device_tokens = self.token_to_kv_pool_allocator.size
        self.tree_core.most_expected_device_tokens = self.settings.expected_share * device_tokens
        # What the shadow holds the cache no longer has: it would look like a loss.
        self.view.cache_emptied()
        self.tree_core.expected_goes = lambda tenant: self._reuse_of(tenant).expected_goes
        self.tree_core.on_fate = lambda tenant, rank, since, was_used: self._reuse_of(tenant).note(
            rank, since, was_used=was_used
        )
        clock = MessageClock(accesses)
        make_reuse = partial(Reuse, clock, order=self.settings.order)
        ledgers = self.adapter_ledgers()
        self.tenants.begin(self._make_foresight, make_reuse)
        for tenant, ledger in ledgers.items():  # the slots for adapters are as they were
            ledger.clear()
            self.tenants.of(tenant).foresight.adapters = ledger
        if self.settings.infer:
            self.inferred = InferredCallers(lambda hint: self._take_in(scoped(hint)))

    def init_hicache(self, server_args: Any, params: Any) -> None:
        super().init_hicache(server_args, params)
        back_up_in_one_launch(self.cache_controller)
        host_tokens = self.cache_controller.mem_pool_host.size
        self.tree_core.most_expected_host_tokens = self.settings.expected_share * host_tokens
        self.prefetcher = Prefetcher(self, self._prefetch_queue, self.settings)

    def manage_adapters(self, lora: AdapterSlots) -> None:
        """Let forecasts count for LoRA adapters too."""
        self.lora = lora
        self.tenants.anonymous.foresight.adapters = lora.make_ledger(None)

    def adapter_ledger(self, tenant: Tenant) -> AdapterLedger | None:
        """What a tenant's agents will call with."""
        known = self.tenants.find(tenant)
        return None if known is None else known.foresight.adapters

    def adapter_ledgers(self) -> dict[Tenant, AdapterLedger]:
        """Those of all tenants, silent longest first: who talks most takes no turn from others."""
        names = [tenant for tenant, _ in self.tenants.items()]
        found = {tenant: self.adapter_ledger(tenant) for tenant in reversed(names)}
        return {tenant: ledger for tenant, ledger in found.items() if ledger is not None}

    @property
    def now_ms(self) -> int | None:
        """The clock by which calls are due; None where they are so many steps away."""
        clock = self.tenants.anonymous.reuse.clock
        return clock.now_ms if self.settings.order == "time" and clock.has_begun else None

    def _reuse_of(self, tenant: Tenant) -> Reuse:
        return (self.tenants.find(tenant) or self.tenants.anonymous).reuse

    def _make_foresight(self, tenant: Tenant, limits: Limits, reuse: Reuse) -> Foresight[Node]:
        device_tokens = self.token_to_kv_pool_allocator.size
        return Foresight(
            self.tree_core.ledger,
            make_key=self._make_key,
            cut=self.touch_prefix,
            lifetime_tokens=int(self.settings.lifetime_pools * device_tokens),
            prefetch=self._prefetch_queue,
            reuse=reuse,
            adapters=None if self.lora is None else self.lora.make_ledger(limits),
            limits=limits,
            tenant=tenant,
        )

    def check_hicache_events(self) -> None:
        super().check_hicache_events()
        self._back_up_wanted()
        if self.prefetcher is not None:
            self.prefetcher.step()

    def begin_pass(self, running: Sequence[Any] = ()) -> None:
        """Before the scheduler looks for the next batch; these requests are being answered."""
        self.spare_tokens = tokens_to_write(running, SPARE_TOKENS)
        self.tenants.catch_up()
        self.tree_core.ledger.catch_up()

    def protected_size(self) -> int:
        tokens: int = super().protected_size()
        return tokens if self.prefetcher is None else tokens + self.prefetcher.tokens_under_way

    def arrived(self, request: Any) -> None:
        """A request has come: its hint is heard in its turn, or one inferred once a batch runs.

        Until then what its workflow has told before counts.
        """
        custom_params = request.sampling_params.custom_params
        is_hinted = isinstance(custom_params, Mapping) and FIELD in custom_params
        if is_hinted:
            self.mailbox.put(request)
        elif self.inferred is not None:
            self.inferred.arrived(request)
        told = _told_caller(custom_params) if is_hinted else None
        if told is not None and self._prefetch_queue is not None:
            self._prefetch_queue.forget(told.workflow)  # its request asks for its own
        if self.gathering is not None:
            self.gathering.arrived(None if told is None else told.workflow)
        if self.lora is not None:
            self.lora.request_arrived()
        if self.prefetcher is not None:
            self.prefetcher.arrivals.note()

    def catch_up(self, reqs: Iterable[Any]) -> None:
        """Infer who has sent these requests, while the device works on them."""
        if self.inferred is not None:
            self.inferred.catch_up(req.rid for req in reqs)

    def _open(self, request: Any) -> None:
        """Take in a request's hint."""
        try:
            hint = decode_request(request.sampling_params.custom_params)
        except HintError as error:
            self.outcomes[f"refused_{error.reason}"] += 1
            return
        assert hint is not None, "only hinted requests are put there"
        theirs, tenant = scoped(hint), self.tenants.of(hint.tenant)
        heard = self._take_in(theirs)
        self._note_adapter(tenant.foresight, theirs, request.lora_id)
        doubt = tenant.foresight.doubt_of(theirs.workflow)
        if tenant.receipts.arrived(request.rid, hint, heard, doubt=doubt):
            self.outcomes[heard.outcome] += 1
            self.view.heard(hint, heard.outcome)

    def hear(self, hint: Hint) -> Outcome:
        """Take in a forecast that no request carries."""
        self.mailbox.hear_all()
        outcome = self._take_in(scoped(hint)).outcome
        self.outcomes[outcome] += 1
        self.tenants.of(hint.tenant).receipts.heard(hint, outcome)
        self.view.heard(hint, outcome)
        return outcome

    def overhear(self, hint: Hint) -> None:
        """Take in the hint of a request that another data-parallel scheduler has got."""
        self.mailbox.hear_all()
        self._take_in(scoped(hint))

    def _take_in(self, hint: Hint) -> Heard:
        heard = self.tenants.of(hint.tenant).foresight.hear(hint)
        if self.prefetcher is not None:
            self.prefetcher.wake()
        if self.gathering is not None and hint.agent is None and hint.forecast.expects_nobody:
            self.gathering.rests(hint.workflow)
        return heard

    def make_room(self, tokens: int, beyond: int, tenant: Tenant = None) -> int:
        """Free slots, up to `tokens`, of what the tenant needs beyond a distance only.

        Besides what the running requests are about to write.
        """
        shortfall = tokens + self.spare_tokens - self.token_to_kv_pool_allocator.available_size()
        if shortfall > 0:
            with self.tree_core.displacing_for(Displacement(beyond, tenant)):
                self.evict_for_alloc(EvictParams(num_tokens=shortfall))
        free_tokens: int = self.token_to_kv_pool_allocator.available_size() - self.spare_tokens
        return max(min(tokens, free_tokens), 0)

    def checkpoint_into_tree(self, req: Any, *, up_to: int, **kwargs: Any) -> None:
        self.mailbox.hear_to(req.rid)
        tenant = tenant_in(req.sampling_params.custom_params)
        told = _told_caller(req.sampling_params.custom_params)
        caller, is_told = self._caller(req, told, tenant)
        if self.lora is not None:
            self.lora.used(req.lora_id, tenant)
        if not self.settings.kv:
            caller, is_told = None, False
        tokens_before = req.kv.cache_inserted_len
        user = None if caller is None else caller.workflow
        prefix_end = self._leaf_of(req)
        if prefix_end is not None and tokens_before == 0 and not was_retracted(req):
            self.tree_core.note_read(prefix_end)
        with self.tree_core.inserting_for(Writer(user, tenant, is_told)):
            super().checkpoint_into_tree(req, up_to=up_to, **kwargs)
        prefetched_tokens = self._read(req)
        known = self.tenants.find(tenant)
        # A client may name a request like a hinted one that never ran.
        if told is not None and known is not None and known.receipts.is_under_way(req.rid):
            admission = admission_of(self, req, caller, tenant, prefetched_tokens)
            send(known.receipts.admitted(req.rid, admission), req)
        self._learn(req, caller, tokens_before)
        # What was computed twice was asked for once.
        shares = None if was_retracted(req) else self.view.computed(req, tokens_before)
        if shares is not None and known is not None and known.guard.note(shares):
            known.foresight.heed(known.guard.heeds)
        self._back_up_wanted()
        if req.finished():
            self._answered(req, told)

    def _answered(self, req: Any, told: Hint | None) -> None:
        if self.inferred is not None:
            self.inferred.finished(req)
        if self.gathering is not None and told is not None and not is_aborted(req):
            self.gathering.answered(told.workflow)

    def _caller(self, req: Any, told: Hint | None, tenant: Tenant) -> tuple[Hint | None, bool]:
        """Who has sent a request, told or inferred; and whether what it was told is believed."""
        if told is not None:
            # What goes on to a store beyond the host may be of use to other servers.
            is_told = not self.enable_storage and self.tenants.of(tenant).foresight.is_trusted(
                told.workflow
            )
            return told, is_told
        inferred = None if self.inferred is None else self.inferred.caller_of(req)
        if inferred is None:
            return None, False
        caller = scoped(inferred)
        self._note_adapter(self.tenants.of(tenant).foresight, caller, req.lora_id)
        return caller, False

    def _note_adapter(self, foresight: Foresight[Node], caller: Hint, lora_id: str | None) -> None:
        if self.lora is not None:
            foresight.called_with(caller, self.lora.name_of(lora_id))

    def _back_up_wanted(self) -> None:
        if self.cache_controller is not None:
            for node_id in self.tree_core.pop_wanted_backups():
                back_up(self, node_id)

    def evict(self, params: Any) -> Any:
        return self._evict_and_land(super().evict, params)

    def evict_for_alloc(
        self, params: Any, *, allocation_reclaim_satisfied: Callable[[], bool] | None = None
    ) -> Any:
        if allocation_reclaim_satisfied is None:
            return self._evict_and_land(super().evict_for_alloc, params)
        # The caller says when it is enough, so victims go one by one, whole.
        result = super().evict_for_alloc(
            params, allocation_reclaim_satisfied=allocation_reclaim_satisfied
        )
        self.tenants.turn_over(result.num_tokens_evicted)
        return result

    def _evict_and_land(self, evict: Callable[[Any], Any], params: Any) -> Any:
        with self.tree_core.evicting(params.num_tokens):
            result = evict(params)
        if self._lands_early_loads(params, result):
            left = params.num_tokens - result.num_tokens_evicted
            result.num_tokens_evicted += evict(EvictParams(left)).num_tokens_evicted
        self.tenants.turn_over(result.num_tokens_evicted)
        return result

    def _lands_early_loads(self, params: Any, result: Any) -> bool:
        """Whether slots under a copy could now be freed, where nothing else was left to evict.

        Without that a request could run out of memory that stock SGLang serves.
        """
        if self.prefetcher is None or result.num_tokens_evicted >= params.num_tokens:
            return False
        return self.prefetcher.land_all()

    def status(self) -> dict[str, int]:
        """What the cache knows and protects, for `GET /kvflow/status`."""
        self.mailbox.hear_all()
        tree = self.tree_core
        expected = tree.expected.total()
        return {
            **self.tenants.status(),
            "expected_device_tokens": expected.device,
            "expected_host_tokens": expected.host,
            "device_leaves": len(tree.evictable_device_leaves),
            "host_leaves": len(tree.evictable_host_leaves),
            **({} if self.prefetcher is None else self.prefetcher.status()),
            **({} if self.lora is None else self.lora.status()),
            **({} if self.inferred is None else self.inferred.status()),
            **({} if self.gathering is None else self.gathering.counts()),
            **self.view.status(),
            **{f"hints_{outcome}": count for outcome, count in sorted(self.outcomes.items())},
        }

    def _note_eviction(self, node: Node, tier: Tier, standing: Standing) -> None:
        self.evicted_tokens[tier, standing] += len(node.key)
        if tier == "device" and self.prefetcher is not None:
            self.prefetcher.evicted(node)

    def _read(self, req: Any) -> int:
        """Note that a request has read its prefix; how many tokens of it were loaded ahead."""
        leaf = self._leaf_of(req)
        if leaf is None or self.prefetcher is None:
            return 0
        prefetched_tokens = self.prefetcher.read(req, leaf)
        self.prefetcher.wake()
        return prefetched_tokens

    def _leaf_of(self, req: Any) -> Node | None:
        leaf = None if self.disable else self.tree_core.node_or_none(req.last_node)
        return None if leaf is self.tree_core.root_node else leaf

    def _learn(self, req: Any, caller: Hint | None, tokens_before: int) -> None:
        leaf = self._leaf_of(req)
        if leaf is None:
            return
        if caller is None:
            self.tree_core.ledger.use(leaf, None)
            return
        if is_aborted(req):
            self.tree_core.ledger.use(leaf, caller.workflow)
            return
        tokens = req.kv.cache_inserted_len
        prompt_tokens = len(req.origin_input_ids)
        # Only whole pages are cached.
        whole_prompt_tokens = prompt_tokens - prompt_tokens % self.page_size
        namespace = Namespace(req.extra_key, req.cache_salt)
        foresight = self.tenants.of(caller.tenant).foresight
        if tokens_before < whole_prompt_tokens <= tokens and not was_retracted(req):
            foresight.prompt_cached(caller, req.origin_input_ids, namespace, leaf)
        # A request that was ended in its prefill has shown less than a prompt.
        if req.finished() and whole_prompt_tokens <= tokens:
            prompt_and_answer = req.full_untruncated_fill_ids[:tokens]
            foresight.answer_cached(caller, prompt_and_answer, namespace, leaf)
        else:
            self.tree_core.ledger.use(leaf, caller.workflow)

    def _make_key(self, tokens: array[int], prefix_tokens: int, namespace: Namespace) -> Key:
        key: Key = RadixKey(
            tokens[:prefix_tokens],
            namespace.extra_key,
            is_bigram=self.tree_core.is_eagle,
            cache_salt=namespace.cache_salt,
        ).page_aligned(self.page_size)
        return key


def _make_queue(settings: Settings, page_size: int) -> PrefetchQueue[Node] | None:
    if settings.prefetch_steps is None or not settings.kv:
        return None
    return PrefetchQueue(
        horizon_steps=settings.prefetch_steps,
        most_agents=settings.prefetch_agents,
        most_tokens=settings.prefetch_tokens,
        page_size=page_size,
    )


def _told_caller(custom_params: Any) -> Hint | None:
    try:
        caller = decode_caller(custom_params)
    except HintError:
        return None
    return None if caller is None else scoped(caller)
