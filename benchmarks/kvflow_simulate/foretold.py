"""kvflow's policy, and that of the paper: what hints and prompts have taught."""

from __future__ import annotations

from collections.abc import Iterable

from kvflow_agents.app_prompts import Namespace
from kvflow_agents.eviction import (
    Preference,
    Rank,
    Standing,
    beyond_share,
    by_standing,
    part_to_evict,
    rank,
)
from kvflow_agents.expected_tokens import NOTHING, ExpectedTokens, TierTokens
from kvflow_agents.foresight import Foresight
from kvflow_agents.guard import Guard
from kvflow_agents.hints import Hint
from kvflow_agents.lora_ledger import FEWEST_LIFETIME_EVICTIONS, Adapter, AdapterLedger
from kvflow_agents.prefetch import PrefetchQueue
from kvflow_agents.prefix import Tokens
from kvflow_agents.reuse import MessageClock, Reuse
from kvflow_agents.shadow import Shadow, checksums
from kvflow_sglang.settings import Settings
from kvflow_simulate.policies import Claimed
from kvflow_simulate.requests import CallId, Request
from kvflow_simulate.tree import Node, PrefixTree, TokenKey


class Foretold(Claimed):
    """kvflow's: what the hints and prompts have taught, with the server's own settings."""

    def __init__(self, tree: PrefixTree, settings: Settings | None = None) -> None:
        super().__init__(tree)
        self._settings = settings or Settings()
        if tree.host_tokens and self._settings.prefetch_steps is not None:
            self.queue = PrefetchQueue(
                horizon_steps=self._settings.prefetch_steps,
                most_agents=self._settings.prefetch_agents,
                most_tokens=self._settings.prefetch_tokens,
            )
        self.lora_prefetch_steps = self._settings.lora_prefetch_steps
        self.expected_share = self._settings.expected_share
        self._reuse = Reuse(MessageClock(lambda: tree.accesses), order=self._settings.order)
        self.foresight: Foresight[Node] = Foresight(
            self.ledger,
            make_key=_make_key,
            cut=self._cut,
            lifetime_tokens=int(self._settings.lifetime_pools * tree.device_tokens),
            prefetch=self.queue,
            reuse=self._reuse,
        )
        self._guard = Guard()
        self._found_tokens: dict[CallId, int] = {}
        self._shadow = Shadow.of_pool(max(tree.device_tokens, tree.host_tokens))
        self._expected = ExpectedTokens()

    def manage_adapters(self) -> None:
        self.foresight.adapters = AdapterLedger(lifetime_evictions=FEWEST_LIFETIME_EVICTIONS)

    def part_to_evict(self, victim: Node, wanted_tokens: int) -> int:
        if self.tree.host_tokens or self._settings.order != "time":
            return super().part_to_evict(victim, wanted_tokens)
        standing, _ = self.ledger.standing(victim)
        return part_to_evict(standing, len(victim.key), wanted_tokens)

    def backs_up(self, node: Node) -> bool:
        """As in the server: nobody will ask the host for what is spent, as far as it is told so."""
        is_told = self.user is not None and self.foresight.is_trusted(self.user)
        return not (is_told and self.ledger.standing(node)[0] is Standing.SPENT)

    def preference(self, *, on_host: bool) -> Preference:
        share, expected = self.expected_share, self._expected.of(None)
        if on_host:
            exceeds = expected.host > share * self.tree.host_tokens
        else:
            exceeds = expected.device > share * self.tree.device_tokens
        expected_goes = self._reuse.expected_goes
        return beyond_share(expected_goes) if exceeds else expected_goes

    def fate(self, rank: Rank, leaf_since: int, *, was_used: bool) -> None:
        self._reuse.note(rank, leaf_since, was_used=was_used)

    def arrived(self, request: Request, now_s: float) -> None:
        if request.hint is not None:
            self.told(request.hint, now_s)
            self.foresight.called_with(request.hint, request.adapter)

    def told(self, hint: Hint, now_s: float) -> None:
        self.foresight.hear(hint._replace(at_ms=int(1000 * now_s)))
        if self._settings.order == "time":
            self.now_ms = self._reuse.clock.now_ms

    def found(self, request: Request, cached_tokens: int) -> None:
        self._found_tokens[request.id] = cached_tokens

    def inserting(self, request: Request) -> None:
        self.user = None if request.hint is None else request.hint.workflow

    def prompt_cached(self, request: Request, leaf: Node) -> None:
        if request.hint is None:
            self.ledger.use(leaf, None)
        else:
            self.foresight.prompt_cached(request.hint, request.prompt, Namespace(), leaf)
        # Not before: in the server too a request is still admitted by what was believed then.
        blocks = checksums(request.prompt, self._shadow.block_tokens)
        found_tokens = self._found_tokens.pop(request.id)
        if self._guard.note(self._shadow.see(blocks, found_tokens, len(request.prompt) - 1)):
            self.foresight.heed(self._guard.heeds)

    def answer_cached(self, request: Request, leaf: Node) -> None:
        if request.hint is None:
            self.ledger.use(leaf, None)
        else:
            tokens = request.prompt + request.answer
            self.foresight.answer_cached(request.hint, tokens, Namespace(), leaf)

    def turn_over(self, evicted_tokens: int) -> None:
        self.foresight.turn_over(evicted_tokens)

    def adapter_steps(self, adapter: Adapter) -> int | None:
        known = self.foresight.adapters
        return None if known is None else known.steps_of(adapter)

    def adapters_by_nearness(self) -> Iterable[Adapter]:
        known = self.foresight.adapters
        return () if known is None else known.by_nearness()

    def adapter_evicted(self) -> None:
        if self.foresight.adapters is not None:
            self.foresight.adapters.turn_over()

    def changed(self, node: Node) -> None:
        super().changed(node)
        self.moved(node)

    def split(self, upper: Node, lower: Node) -> None:
        super().split(upper, lower)
        self.moved(upper)
        self.moved(lower)

    def moved(self, node: Node) -> None:
        tokens = len(node.key) if self.ledger.is_expected(node) else 0
        now = TierTokens(device=node.on_device * tokens, host=node.on_host * tokens)
        if self._expected.note(node.id, None, now):
            self.on_lost(self.ledger.standing(node)[1])

    def removed(self, node: Node) -> None:
        super().removed(node)
        self._expected.note(node.id, None, NOTHING)

    def _cut(self, key: object) -> None:
        assert isinstance(key, TokenKey)
        self.tree.cut(key)


class Papers(Foretold):
    """KVFlow, section 3: what no agent is expected to use goes first, then the furthest agents.

    Prefixes are learned and loaded ahead as kvflow does it; the paper is told them.
    """

    def __init__(self, tree: PrefixTree) -> None:
        super().__init__(tree, Settings(order="steps"))

    def rank(self, node: Node) -> Rank:
        standing, distance = self.ledger.standing(node)
        if standing is not Standing.EXPECTED:
            standing = Standing.SPENT
        return rank(standing, distance, node.last_access, node.id)

    def backs_up(self, node: Node) -> bool:
        return True

    def preference(self, *, on_host: bool) -> Preference:
        return by_standing


def _make_key(tokens: Tokens, prefix_tokens: int, namespace: Namespace) -> TokenKey:
    return TokenKey(tokens[:prefix_tokens])
