"""Belady's MIN, which knows the calls to come."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from kvflow_agents.adapters import Adapter
from kvflow_agents.claims import Claim
from kvflow_agents.eviction import Rank, Standing, rank
from kvflow_simulate.policies import Claimed
from kvflow_simulate.requests import CallId, Request
from kvflow_simulate.tree import Node, PrefixTree, TokenKey


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
