"""Loads ahead of their requests, one copy under way at a time, as the server makes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from kvflow_agents.claims import Claim
from kvflow_agents.prefetch import Load, Span
from kvflow_simulate.policies import Policy
from kvflow_simulate.tree import Node, PrefixTree, TokenKey, host_only, path


@dataclass(frozen=True, slots=True)
class Part:
    """One prefix of a copy: the last tokens of the path to `anchor`."""

    anchor: Node
    tokens: int


@dataclass(eq=False, slots=True)
class Flight:
    """One copy; what it brings enters the tree when it is done."""

    parts: list[Part]
    ends_s: float

    @property
    def tokens(self) -> int:
        """How many slots it writes."""
        return sum(part.tokens for part in self.parts)


class EarlyLoads:
    """What the server's prefetcher does between two batches; `make_room` frees slots."""

    def __init__(
        self, tree: PrefixTree, policy: Policy, *, make_room: Callable[[int, int], int]
    ) -> None:
        self._tree = tree
        self._policy = policy
        self._queue = policy.queue
        self._make_room = make_room
        self.flight: Flight | None = None
        self.reserved_tokens = 0
        self.counts: Counter[str] = Counter()
        self._unused: dict[int, tuple[Node, int]] = {}
        self._is_settled = False
        policy.on_lost = self._lost

    def wake(self) -> None:
        """A forecast, a prefix or the room on the device has changed."""
        self._is_settled = False

    def next_copy(self) -> list[Part]:
        """What to copy now, its slots reserved; nothing while a copy is under way."""
        if not self.may_start:
            return []
        assert self._queue is not None
        parts: list[Part] = []
        self._is_settled = not self._queue.fill(
            missing,
            lambda load: self._room_for(load, parts),
            lambda load: self._reserve(load, parts),
            now_ms=self._policy.now_ms,
        )
        return parts

    @property
    def may_start(self) -> bool:
        """Whether the next pass may start a copy, for all that is known now."""
        return self._queue is not None and not self._is_settled and self.flight is None

    def land(self) -> None:
        """The copy is done: what the device still lacks of it enters the tree."""
        assert self.flight is not None
        flight, self.flight = self.flight, None
        if self._queue is not None:
            self._queue.note_landed(self._policy.now_ms)
        for part in flight.parts:
            self.reserved_tokens -= part.tokens
            left, nodes = part.tokens, []
            for node in path(part.anchor):
                if left <= 0:
                    break
                left -= len(node.key)
                if not node.on_device:
                    nodes.append(node)
            self._tree.load(nodes[::-1])
            for node in nodes:
                self._waste(node.id)
                self._unused[node.id] = node, len(node.key)
            self._tree.unlock(part.anchor)
        self.wake()

    def brings(self, node: Node) -> bool:
        """Whether the first part of what the device lacks down to a node is under way."""
        missing_nodes = host_only(node)
        return bool(missing_nodes) and self._is_bringing(
            missing_nodes[0], [] if self.flight is None else self.flight.parts
        )

    def note_late(self) -> None:
        """A request has to wait for a copy."""
        self.counts["waits"] += 1
        if self._queue is not None:
            self._queue.note_late()

    def read(self, leaf: Node, *, waited: bool) -> int:
        """A request reads all down to a node; how many tokens of it were loaded ahead."""
        tokens = 0
        for node in path(leaf) if self._unused else ():
            # What was cut since is counted where it lies.
            if self._unused.pop(node.id, None) is not None:
                tokens += len(node.key)
        self.counts["used_tokens"] += tokens
        if tokens and not waited and self._queue is not None:
            self._queue.note_in_time()
        return tokens

    def split(self, upper: Node, lower: Node) -> None:
        """A node was cut in two."""
        if lower.id in self._unused:
            self._unused[upper.id] = upper, len(upper.key)
            self._unused[lower.id] = lower, len(lower.key)

    def note_wasted(self) -> None:
        """Count what has left the device without being read."""
        for node_id, (node, _) in list(self._unused.items()):
            if not node.on_device:
                self._waste(node_id)

    def _room_for(self, load: Load[Node], parts: list[Part]) -> int | None:
        if self._is_bringing(host_only(load.claim.node)[0], parts):
            return None
        return self._make_room(load.tokens, load.beyond)

    def _reserve(self, load: Load[Node], parts: list[Part]) -> int:
        claim, stop = load.claim, load.stop
        anchor = _node_ending_at(claim, stop)
        if anchor is None:
            assert isinstance(claim.key, TokenKey)
            self._tree.cut(TokenKey(claim.key.tokens[:stop]))
            anchor = _node_ending_at(claim, stop)
        if anchor is None:
            return 0
        self._tree.lock(anchor)
        tokens = sum(len(node.key) for node in host_only(anchor))
        self.reserved_tokens += tokens
        self.counts["prefetched_tokens"] += tokens
        parts.append(Part(anchor, tokens))
        return tokens

    def _is_bringing(self, first: Node, parts: list[Part]) -> bool:
        return any(host_only(part.anchor)[:1] == [first] for part in parts)

    def _lost(self, distance: int | None) -> None:
        if self._queue is not None and self._queue.note_lost(distance):
            self.wake()

    def _waste(self, node_id: int) -> None:
        _, tokens = self._unused.pop(node_id, (None, 0))
        self.counts["wasted_tokens"] += tokens


def missing(claim: Claim[Node]) -> Span:
    """Which tokens of a claim the host has and the device lacks."""
    lacking = sum(len(node.key) for node in host_only(claim.node))
    return claim.depth_tokens - lacking, claim.depth_tokens


def _node_ending_at(claim: Claim[Node], tokens: int) -> Node | None:
    end, node = claim.depth_tokens, claim.node
    while end > tokens:
        assert node.parent is not None
        end -= len(node.key)
        node = node.parent
    return node if end == tokens else None
