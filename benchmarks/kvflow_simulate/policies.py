"""What a policy is to the engine; recency, and claims that say who uses what."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from kvflow_agents.claims import ClaimLedger
from kvflow_agents.eviction import Preference, Rank, Standing, by_standing, rank
from kvflow_agents.hints import Hint
from kvflow_agents.lora_ledger import Adapter
from kvflow_agents.prefetch import PrefetchQueue
from kvflow_simulate.adapters import AdapterOrder
from kvflow_simulate.requests import Request
from kvflow_simulate.tree import PAGE_SIZE, Node, Order, PrefixTree


class Policy(Order, AdapterOrder, Protocol):
    """An order of eviction, of KV and of adapters, that hears of requests."""

    queue: PrefetchQueue[Node] | None
    """What to load ahead; None: nothing."""
    now_ms: int | None
    """The clock by which calls are due; None where they are so many steps away."""
    on_lost: Callable[[int | None], None]
    """Called for a node that left the device, with how far its nearest agent is from its call."""

    def manage_adapters(self) -> None:
        """Requests may call with LoRA adapters."""

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
    now_ms: int | None = None
    on_lost: Callable[[int | None], None] = staticmethod(lambda distance: None)
    lora_prefetch_steps: int | None = None
    expected_share: float = 1.0

    def __init__(self, tree: PrefixTree) -> None:
        self.tree = tree

    def rank(self, node: Node) -> Rank:
        return rank(Standing.ORDINARY, None, node.last_access, node.id)

    def part_to_evict(self, victim: Node, wanted_tokens: int) -> int:
        return len(victim.key)  # as SGLang's caches do it

    def backs_up(self, node: Node) -> bool:
        return True

    def preference(self, *, on_host: bool) -> Preference:
        return by_standing

    def fate(self, rank: Rank, leaf_since: int, *, was_used: bool) -> None: ...
    def manage_adapters(self) -> None: ...
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
