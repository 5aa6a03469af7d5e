"""A cache under one policy: each call is served at once, and its prompt is found or computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from kvflow_agents.hints import Hint
from kvflow_simulate.policies import Policy
from kvflow_simulate.requests import Request
from kvflow_simulate.tree import PrefixTree, host_only


class Found(NamedTuple):
    """How many blocks of a prompt were there."""

    device_blocks: int
    host_blocks: int = 0


class Cache(Protocol):
    """What a trace is replayed against."""

    def serve(self, request: Request, now_s: float) -> Found: ...
    def tell(self, hint: Hint, now_s: float) -> None: ...


class PolicyCache:
    """The server's policy code over a tree whose tokens are blocks."""

    def __init__(
        self, make: Callable[[PrefixTree], Policy], *, device_blocks: int, host_blocks: int
    ) -> None:
        self._made: list[Policy] = []

        def order(tree: PrefixTree) -> Policy:
            self._made.append(make(tree))
            return self._made[0]

        self.tree = PrefixTree(device_tokens=device_blocks, host_tokens=host_blocks, order=order)
        self._policy = self._made[0]

    def tell(self, hint: Hint, now_s: float) -> None:
        """Something is said without a call."""
        self._policy.told(hint, now_s)

    def serve(self, request: Request, now_s: float) -> Found:
        """Find a prompt, load what lies on the host, compute and cache the rest and the answer."""
        tree, policy = self.tree, self._policy
        policy.arrived(request, now_s)
        match = tree.match(request.prompt)
        tree.lock(match.node)
        if match.host_tokens:
            self._make_room(match.host_tokens)
            tree.load(host_only(match.node))
        found = match.device_tokens + match.host_tokens
        policy.found(request, found)
        self._make_room(len(request.prompt) - found + len(request.answer))
        policy.inserting(request)
        prompt = tree.insert(request.prompt)
        tree.lock(prompt)
        tree.unlock(match.node)
        policy.prompt_cached(request, prompt)
        whole = tree.insert(request.prompt + request.answer, len(request.prompt))
        policy.answer_cached(request, whole)
        tree.unlock(prompt)
        return Found(match.device_tokens, match.host_tokens)

    def _make_room(self, blocks: int) -> None:
        shortfall = self.tree.device_used + blocks - self.tree.device_tokens
        if shortfall > 0:
            self._policy.turn_over(self.tree.evict(shortfall))
