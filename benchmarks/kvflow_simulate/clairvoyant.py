"""Belady's MIN, which knows the calls to come."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from kvflow_agents.eviction import Rank, Standing, rank
from kvflow_agents.lora_ledger import Adapter
from kvflow_agents.prefix import Tokens
from kvflow_simulate.policies import Recency
from kvflow_simulate.requests import CallId, Request
from kvflow_simulate.tree import Node, PrefixTree, TokenKey, path


@dataclass(eq=False, slots=True)
class Stretch:
    """Consecutive tokens that the same calls use: their indices, in order."""

    calls: Tokens = field(default_factory=lambda: Tokens("q"))


class Future:
    """The calls in the order of a run that has been, for who may know them beforehand.

    A call uses all of its prompt but the last token, which it computes in any case.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self.index = {request.id: index for index, request in enumerate(requests)}
        self.adapters = [(request.id, request.adapter) for request in requests]
        tree = PrefixTree(device_tokens=sys.maxsize, host_tokens=0, order=Recency)
        for request in requests:
            tree.insert(request.prompt[:-1])
        for request in requests:
            tree.cut(TokenKey(request.prompt + request.answer))
        stretches: dict[int, Stretch] = {}
        for index, request in enumerate(requests):
            for node in path(tree.insert(request.prompt[:-1])):
                stretches.setdefault(node.id, Stretch()).calls.append(index)
        self._stretches: dict[CallId, list[tuple[int, Stretch]]] = {}
        for request in requests:
            end, found = 0, []
            for node in [*path(tree.match(request.prompt + request.answer).node)][::-1]:
                end += len(node.key)
                found.append((end, stretches[node.id]))
            self._stretches[request.id] = found

    def stretches(self, call: CallId) -> list[tuple[int, Stretch]]:
        """What of a call's prompt and answer any call uses, cut up; with the end of each."""
        return self._stretches[call]


class Clairvoyant(Recency):
    """Belady's MIN: what is used again goes by its next use, the furthest first, the rest before.

    The order of calls is that of the run where everything fits. Answers count like prompts, a leaf
    goes in part if that is enough, and running calls hold what they use.
    """

    def __init__(self, tree: PrefixTree, future: Future, *, piece_tokens: int = 1) -> None:
        """With a host tier, where a part of a node would do, whole pieces go."""
        super().__init__(tree)
        # With one tier what is cut off is gone, and leaves no nodes behind.
        self._piece_tokens = piece_tokens if tree.host_tokens else 1
        self._future = future
        self._is_served = [False] * len(future.index)
        self._stretches: dict[int, Stretch | None] = {}
        self._passed: dict[Stretch, int] = {}
        self._adapter_calls: dict[Adapter, deque[CallId]] = {}
        for call, adapter in future.adapters:
            self._adapter_calls.setdefault(adapter, deque()).append(call)

    def part_to_evict(self, victim: Node, wanted_tokens: int) -> int:
        left_tokens = max(len(victim.key) - wanted_tokens, 0)
        return len(victim.key) - left_tokens // self._piece_tokens * self._piece_tokens

    def found(self, request: Request, cached_tokens: int) -> None:
        self._adapter_calls[request.adapter].remove(request.id)

    def adapter_steps(self, adapter: Adapter) -> int | None:
        calls = self._adapter_calls.get(adapter)
        return self._future.index[calls[0]] if calls else None

    def prompt_cached(self, request: Request, leaf: Node) -> None:
        self._is_served[self._future.index[request.id]] = True
        self._foresee(request, request.prompt, leaf)

    def answer_cached(self, request: Request, leaf: Node) -> None:
        self._foresee(request, request.prompt + request.answer, leaf)

    def split(self, upper: Node, lower: Node) -> None:
        if lower.id in self._stretches:
            self._stretches[upper.id] = self._stretches[lower.id]

    def removed(self, node: Node) -> None:
        self._stretches.pop(node.id, None)

    def rank(self, node: Node) -> Rank:
        stretch = self._stretches.get(node.id)
        index = None if stretch is None else self._next_use(stretch)
        standing = Standing.SPENT if index is None else Standing.EXPECTED
        return rank(standing, index, node.last_access, node.id)

    def _foresee(self, request: Request, tokens: Tokens, leaf: Node) -> None:
        """Let the nodes of a sequence end where its next uses part, and go by those."""
        stretches = self._future.stretches(request.id)
        new = [node for node in path(leaf) if node.id not in self._stretches]
        known_tokens = len(tokens) - sum(len(node.key) for node in new)
        for end, _ in stretches:
            if known_tokens < end < len(tokens):
                self.tree.cut(TokenKey(tokens[:end]))
        left, stop = iter(stretches), 0
        end, stretch = next(left, (len(tokens), None))
        for node in [*path(leaf)][::-1]:
            while stop >= end and stretch is not None:
                end, stretch = next(left, (len(tokens), None))
            stop += len(node.key)
            self._stretches[node.id] = stretch
            self.tree.refresh(node)

    def _next_use(self, stretch: Stretch) -> int | None:
        passed = self._passed.get(stretch, 0)
        while passed < len(stretch.calls) and self._is_served[stretch.calls[passed]]:
            passed += 1
        self._passed[stretch] = passed
        return stretch.calls[passed] if passed < len(stretch.calls) else None
