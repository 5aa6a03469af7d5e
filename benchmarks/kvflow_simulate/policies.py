"""The policies: what a cache knows of its requests, and the order of eviction that follows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from kvflow_agents.adapters import FEWEST_LIFETIME_EVICTIONS, Adapter, AdapterLedger
from kvflow_agents.app_prompts import Namespace
from kvflow_agents.claims import Claim, ClaimLedger
from kvflow_agents.errors import ConfigurationError
from kvflow_agents.eviction import Preference, Rank, Standing, by_recency, by_standing, rank
from kvflow_agents.foresight import Foresight
from kvflow_agents.guard import Guard
from kvflow_agents.hints import Hint
from kvflow_agents.prefetch import PrefetchQueue
from kvflow_agents.prefix import Tokens
from kvflow_agents.reuse import MessageClock, Reuse
from kvflow_agents.shadow import Shadow, checksums
from kvflow_sglang.settings import Settings
from kvflow_simulate.adapters import AdapterOrder
from kvflow_simulate.requests import CallId, Request
from kvflow_simulate.tree import PAGE_SIZE, Node, Order, PrefixTree, TokenKey


class Policy(Order, AdapterOrder, Protocol):
    """An order of eviction, of KV and of adapters, that hears of requests."""

    queue: PrefetchQueue[Node] | None
    """What to load ahead; None: nothing."""
    on_lost: Callable[[int | None], None]
    """Called for a node that left the device, with how far its nearest agent is from its call."""

    def arrived(self, request: Request, now_s: float) -> None: ...
    def told(self, hint: Hint, now_s: float) -> None: ...
    def found(self, request: Request, cached_tokens: int) -> None: ...
    def inserting(self, request: Request) -> None: ...
    def prompt_cached(self, request: Request, leaf: Node) -> None: ...
    def answer_cached(self, request: Request, leaf: Node) -> None: ...
    def turn_over(self, evicted_tokens: int) -> None: ...


class Recency:
    """LRU: knows of no request."""

    queue: PrefetchQueue[Node] | None = None
    on_lost: Callable[[int | None], None] = staticmethod(lambda distance: None)
    lora_prefetch_steps: int | None = None

    def __init__(self, tree: PrefixTree) -> None:
        self.tree = tree

    def rank(self, node: Node) -> Rank:
        return rank(Standing.ORDINARY, None, node.last_access, node.id)

    def backs_up(self, node: Node) -> bool:
        return True

    def preference(self, *, on_host: bool) -> Preference:
        return by_standing

    def fate(self, rank: Rank, *, was_used: bool) -> None: ...
    def added(self, node: Node) -> None: ...
    def split(self, upper: Node, lower: Node) -> None: ...
    def moved(self, node: Node) -> None: ...
    def removed(self, node: Node) -> None: ...
    def arrived(self, request: Request, now_s: float) -> None: ...
    def told(self, hint: Hint, now_s: float) -> None: ...
    def found(self, request: Request, cached_tokens: int) -> None: ...
    def inserting(self, request: Request) -> None: ...
    def prompt_cached(self, request: Request, leaf: Node) -> None: ...
    def answer_cached(self, request: Request, leaf: Node) -> None: ...
    def turn_over(self, evicted_tokens: int) -> None: ...

    def adapter_steps(self, adapter: Adapter) -> int | None:
        return None

    def adapters_by_nearness(self) -> Iterable[Adapter]:
        return ()

    def adapter_evicted(self) -> None: ...


class Claimed(Recency):
    """Evicts by claims; subclasses place them. `user` is the workflow that is inserting."""

    def __init__(self, tree: PrefixTree) -> None:
        super().__init__(tree)
        self.user: str | None = None
        self.ledger: ClaimLedger[Node] = ClaimLedger(
            tree.root, page_size=PAGE_SIZE, on_change=self.changed
        )

    def rank(self, node: Node) -> Rank:
        standing, distance = self.ledger.standing(node)
        return rank(standing, distance, node.last_access, node.id)

    def changed(self, node: Node) -> None:
        """The claims on a node have changed."""
        self.tree.refresh(node)

    def added(self, node: Node) -> None:
        self.ledger.added(node, self.user)

    def split(self, upper: Node, lower: Node) -> None:
        self.ledger.split(upper, lower)

    def removed(self, node: Node) -> None:
        self.ledger.removed(node)


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
        self._adapters = AdapterLedger(lifetime_evictions=FEWEST_LIFETIME_EVICTIONS)
        self._reuse = Reuse(MessageClock(lambda: tree.accesses), order=self._settings.order)
        self.foresight: Foresight[Node] = Foresight(
            self.ledger,
            make_key=_make_key,
            cut=self._cut,
            lifetime_tokens=int(self._settings.lifetime_pools * tree.device_tokens),
            prefetch=self.queue,
            reuse=self._reuse,
            adapters=self._adapters,
        )
        self._guard = Guard()
        self._found_tokens: dict[CallId, int] = {}
        self._shadow = Shadow.of_pool(max(tree.device_tokens, tree.host_tokens))
        self.expected_device_tokens = self.expected_host_tokens = 0
        self._expected: dict[int, tuple[int, int]] = {}

    def backs_up(self, node: Node) -> bool:
        """As in the server: nobody will ask the host for what is spent, as far as it is told so."""
        is_told = self.user is not None and self.foresight.is_trusted(self.user)
        return not (is_told and self.ledger.standing(node)[0] is Standing.SPENT)

    def preference(self, *, on_host: bool) -> Preference:
        share = self._settings.expected_share
        if on_host:
            exceeds = self.expected_host_tokens > share * self.tree.host_tokens
        else:
            exceeds = self.expected_device_tokens > share * self.tree.device_tokens
        return by_recency if exceeds else self._reuse.expected_goes

    def fate(self, rank: Rank, *, was_used: bool) -> None:
        self._reuse.note(rank, was_used=was_used)

    def arrived(self, request: Request, now_s: float) -> None:
        if request.hint is not None:
            self.told(request.hint, now_s)
            self.foresight.called_with(request.hint, request.adapter)

    def told(self, hint: Hint, now_s: float) -> None:
        self.foresight.hear(replace(hint, at_ms=int(1000 * now_s)))

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
        return self._adapters.steps_of(adapter)

    def adapters_by_nearness(self) -> Iterable[Adapter]:
        return self._adapters.by_nearness()

    def adapter_evicted(self) -> None:
        self._adapters.turn_over()

    def changed(self, node: Node) -> None:
        super().changed(node)
        self.moved(node)

    def split(self, upper: Node, lower: Node) -> None:
        super().split(upper, lower)
        self.moved(upper)
        self.moved(lower)

    def moved(self, node: Node) -> None:
        is_expected = self.ledger.standing(node)[0] is Standing.EXPECTED
        device = len(node.key) if is_expected and node.on_device else 0
        host = len(node.key) if is_expected and node.on_host else 0
        self._note_expected(node, device, host)

    def removed(self, node: Node) -> None:
        super().removed(node)
        self._note_expected(node, 0, 0)

    def _note_expected(self, node: Node, device: int, host: int) -> None:
        old_device, old_host = self._expected.pop(node.id, (0, 0))
        if old_device and not device and host:
            self.on_lost(self.ledger.standing(node)[1])
        if device or host:
            self._expected[node.id] = (device, host)
        self.expected_device_tokens += device - old_device
        self.expected_host_tokens += host - old_host

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


@dataclass(frozen=True, slots=True)
class Use:
    """When an agent's prompt is used: the `index` of a call, and what it shares with the next."""

    index: int
    kept_tokens: int
    following: CallId | None


class Future:
    """The calls in the order of a run that has been, for who may know them beforehand."""

    def __init__(self, requests: list[Request]) -> None:
        self.uses: dict[CallId, Use] = {}
        self.first: list[Request] = []
        following: dict[tuple[int, str], tuple[Request, TokenKey]] = {}
        for index in reversed(range(len(requests))):
            request = requests[index]
            owner = request.id.workflow, request.agent
            key = TokenKey(request.prompt)
            after = following.get(owner)
            kept = 0 if after is None else key.match_at(after[1], 0)
            self.uses[request.id] = Use(index, kept, None if after is None else after[0].id)
            following[owner] = request, key
        self.first = [request for request, _ in following.values()]
        self.adapters = [(request.id, request.adapter) for request in requests]


class Clairvoyant(Claimed):
    """Belady's MIN: what is used again goes by its next use, the furthest first, the rest before.

    The order of calls is that of the run where everything fits. Running calls hold what they use.
    """

    def __init__(self, tree: PrefixTree, future: Future) -> None:
        super().__init__(tree)
        self._future = future
        self._claims: dict[tuple[int, str], Claim[Node]] = {}
        self._adapter_calls: dict[Adapter, deque[CallId]] = {}
        for call, adapter in future.adapters:
            self._adapter_calls.setdefault(adapter, deque()).append(call)
        for request in future.first:
            self._place(request, len(request.prompt), future.uses[request.id].index)

    def found(self, request: Request, cached_tokens: int) -> None:
        self._adapter_calls[request.adapter].remove(request.id)

    def adapter_steps(self, adapter: Adapter) -> int | None:
        calls = self._adapter_calls.get(adapter)
        return self._future.uses[calls[0]].index if calls else None

    def prompt_cached(self, request: Request, leaf: Node) -> None:
        self.ledger.remove(self._claims.pop((request.id.workflow, request.agent)))
        use = self._future.uses[request.id]
        if use.following is not None:
            key = self._place(request, use.kept_tokens, self._future.uses[use.following].index)
            self.tree.cut(key)

    def inserting(self, request: Request) -> None:
        # What only its own workflow has used and nobody claims counts as spent.
        self.user = str(request.id.workflow)

    def rank(self, node: Node) -> Rank:
        standing, distance = self.ledger.standing(node)
        if standing is not Standing.EXPECTED:
            standing = Standing.SPENT
        return rank(standing, distance, node.last_access, node.id)

    def _place(self, request: Request, tokens: int, index: int) -> TokenKey:
        key = TokenKey(request.prompt[:tokens])
        owner = request.id.workflow, request.agent
        self._claims[owner] = self.ledger.place(key, index)
        return key


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the comparison: a policy, and whether it has a host tier."""

    name: str
    make: Callable[[PrefixTree, Future | None], Policy]
    has_host_tier: bool
    is_hinted: bool = False
    knows_the_future: bool = False
    fits_everything: bool = False
    overlaps_loras: bool = True
    """Whether adapters are loaded beside the computation."""


def _clairvoyant(tree: PrefixTree, future: Future | None) -> Policy:
    assert future is not None, "this policy has to know the future"
    return Clairvoyant(tree, future)


SIDES: Mapping[str, Side] = {
    side.name: side
    for side in (
        Side("lru", lambda tree, _: Recency(tree), has_host_tier=False, overlaps_loras=False),
        Side("lru-overlap", lambda tree, _: Recency(tree), has_host_tier=False),
        Side("hicache", lambda tree, _: Recency(tree), has_host_tier=True, overlaps_loras=False),
        Side("papers", lambda tree, _: Papers(tree), has_host_tier=True, is_hinted=True),
        Side("ours", lambda tree, _: Foretold(tree), has_host_tier=True, is_hinted=True),
        Side("ours-device", lambda tree, _: Foretold(tree), has_host_tier=False, is_hinted=True),
        Side(
            "ours-by-steps",
            lambda tree, _: Foretold(tree, Settings(order="steps")),
            has_host_tier=True,
            is_hinted=True,
        ),
        Side(
            "ours-noprefetch",
            lambda tree, _: Foretold(tree, Settings(prefetch_steps=None, lora_prefetch_steps=None)),
            has_host_tier=True,
            is_hinted=True,
        ),
        Side("optimum", _clairvoyant, has_host_tier=True, knows_the_future=True),
        Side("optimum-device", _clairvoyant, has_host_tier=False, knows_the_future=True),
    )
}
CEILING = Side("ceiling", lambda tree, _: Recency(tree), has_host_tier=False, fits_everything=True)


def chosen(names: list[str]) -> list[Side]:
    """The sides of these names. ConfigurationError if there is no such policy."""
    for name in names:
        if name not in SIDES:
            raise ConfigurationError(f"there is no policy {name!r}; there are {', '.join(SIDES)}")
    return [SIDES[name] for name in dict.fromkeys(names)]


def _make_key(tokens: Tokens, prefix_tokens: int, namespace: Namespace) -> TokenKey:
    return TokenKey(tokens[:prefix_tokens])
