"""Claims: which agents will use which part of the prefix tree, and how soon."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from kvflow_agents.eviction import Standing
from kvflow_agents.tenants import Tenant, tenant_of


class Key(Protocol):
    """A token sequence in its namespace; SGLang's `RadixKey`."""

    def __len__(self) -> int: ...
    def child_key_at(self, offset: int, page_size: int = ...) -> Hashable: ...
    def match_at(self, other: Any, offset: int, page_size: int = ...) -> int: ...


class Node(Protocol):
    """A node of the prefix tree; SGLang's `UnifiedTreeNode`. The root has no parent."""

    id: int
    key: Any
    parent: Any
    children: dict[Any, Any]


N = TypeVar("N", bound=Node)

AT_ONCE = 128
"""So many agents or claims are looked at in one call, where there are more: a few milliseconds."""

Holder = tuple[str, str]
"""A workflow, by its scoped name, and one of its agents."""


@dataclass(eq=False, slots=True)
class Claim(Generic[N]):
    """One agent's prefix: `key`, needed in `steps` steps (None: not known, or never).

    `distance` is by which it is ordered: the steps themselves, or a time on some clock. The claim
    covers every node that lies within the key, down to `node`, where it rests; what the tree
    lacks of it, it waits for there. `holder` is whose prefix it is.
    """

    key: Key
    steps: int | None
    distance: int | None
    node: N
    depth_tokens: int = 0
    tenant: Tenant = None
    holder: Holder | None = None


class _Label(Generic[N]):
    """What is known of one node: who has used it, who will, and who waits for what is below."""

    __slots__ = ("_sorted", "distances", "idle", "nearest", "users", "waiting")

    def __init__(self) -> None:
        self.users: set[str | None] = set()
        self.distances: dict[int, int] = {}  # distance -> covering claims
        self.nearest: int | None = None  # the least of them: many agents may share a node
        self._sorted: list[int] = []  # a heap of the distances, and of some that were
        self.idle = 0  # covering claims without a distance
        # In the order in which they came, which all ranks have alike.
        self.waiting: dict[Hashable, dict[Claim[N], None]] = {}

    def cover(self, distance: int | None) -> None:
        if distance is None:
            self.idle += 1
        elif distance in self.distances:
            self.distances[distance] += 1
        else:
            self.distances[distance] = 1
            heapq.heappush(self._sorted, distance)
            # Those that are no more go when they come up; a heap of mostly such is rebuilt.
            if len(self._sorted) > 2 * len(self.distances) + 64:
                self._sorted = sorted(self.distances)
            if self.nearest is None or distance < self.nearest:
                self.nearest = distance

    def uncover(self, distance: int | None) -> None:
        if distance is None:
            self.idle -= 1
        elif self.distances[distance] > 1:
            self.distances[distance] -= 1
        else:
            del self.distances[distance]
            if distance == self.nearest:
                while self._sorted and self._sorted[0] not in self.distances:
                    heapq.heappop(self._sorted)
                self.nearest = self._sorted[0] if self._sorted else None

    def copy(self) -> _Label[N]:
        """The label of the upper part of a node that is split."""
        copy: _Label[N] = _Label()
        copy.users, copy.idle = set(self.users), self.idle
        copy.distances, copy.nearest = dict(self.distances), self.nearest
        copy._sorted = list(self._sorted)
        return copy

    def move(self, before: int | None, now: int | None) -> bool:
        """A covering claim has another distance; whether the node's standing may be another."""
        nearest, was_idle = self.nearest, self.idle > 0
        # In this order who comes nearer leaves no gap to look for the next one in.
        self.cover(now)
        self.uncover(before)
        return self.nearest != nearest or (self.idle > 0) != was_idle


class ClaimLedger(Generic[N]):
    """Keeps every claim on the deepest node of its path that the tree holds.

    The tree reports each node that is added, split or removed. A claim covers whole nodes only,
    so a tree that wants a prefix protected to the token splits at its end first. `on_change` is
    called for every node whose standing or distance may have changed. All operations cost
    O(nodes on a path), and steps change without a look at the tokens. Where a new node has many
    claims waiting for it, a part of them move down to it at once, and the others in `catch_up`.
    """

    def __init__(self, root: N, *, page_size: int, on_change: Callable[[N], None]) -> None:
        self._root = root
        self._page_size = page_size
        self._on_change = on_change
        self._labels: dict[int, _Label[N]] = {root.id: _Label()}
        # Workflows whose forecasts are not believed: what they leave is not known to be spent.
        self._doubted: set[str] = set()
        self._doubted_tenants: set[Tenant] = set()
        # Nodes and what follows them: so many claims are still to look at the child that is there.
        self._behind: dict[tuple[int, Hashable], tuple[N, int]] = {}

    def standing(self, node: N) -> tuple[Standing, int | None]:
        """Why a node is kept, and how far its nearest agent is from its call."""
        label = self._labels.get(node.id)
        if label is None:
            return Standing.ORDINARY, None
        if label.nearest is not None:
            return Standing.EXPECTED, label.nearest
        is_private = len(label.users) == 1 and None not in label.users
        if is_private and (self._doubted or self._doubted_tenants):
            is_private = not any(map(self._is_doubted, label.users))
        if is_private and not label.idle:
            return Standing.SPENT, None
        return Standing.ORDINARY, None

    def owner(self, node: N) -> str | None:
        """The one workflow that has used a node; None if several have, or somebody unknown."""
        label = self._labels.get(node.id)
        return next(iter(label.users)) if label is not None and len(label.users) == 1 else None

    def is_expected(self, node: N) -> bool:
        """Whether an agent is expected to use a node; `standing` tells more."""
        label = self._labels.get(node.id)
        return label is not None and label.nearest is not None

    def doubt(self, user: str) -> None:
        """Nothing is spent for being used by this workflow alone, until it is believed again."""
        self._doubted.add(user)

    def believe(self, user: str) -> None:
        """A workflow is believed again, or no longer known."""
        self._doubted.discard(user)

    def doubt_tenant(self, tenant: Tenant) -> None:
        """The same of all workflows of a tenant."""
        self._doubted_tenants.add(tenant)

    def believe_tenant(self, tenant: Tenant) -> None:
        """A tenant's workflows are believed again, but for those that are doubted themselves."""
        self._doubted_tenants.discard(tenant)

    def place(
        self,
        key: Key,
        steps: int | None,
        distance: int | None = None,
        *,
        tenant: Tenant = None,
        holder: Holder | None = None,
    ) -> Claim[N]:
        """Claim a prefix; what the tree does not hold yet is claimed as it comes.

        The distance is the steps unless it is given.
        """
        distance = steps if distance is None else distance
        claim = Claim(key, steps, distance, self._root, tenant=tenant, holder=holder)
        self._descend(claim)
        return claim

    def remove(self, claim: Claim[N]) -> None:
        """Give a claim up."""
        self._rest_no_more(claim)
        for node in self._covered(claim):
            self._labels[node.id].uncover(claim.distance)
            self._on_change(node)
        claim.node, claim.depth_tokens = self._root, 0

    def set_steps(self, claim: Claim[N], steps: int | None, distance: int | None = None) -> None:
        """The claim's agent is expected sooner, later, or no more."""
        claim.steps = steps
        now = steps if distance is None else distance
        if now == claim.distance:
            return
        for node in self._covered(claim):
            if self._labels[node.id].move(claim.distance, now):
                self._on_change(node)
        claim.distance = now

    def use(self, leaf: N, user: str | None) -> None:
        """A workflow (None: somebody unknown) has used a node and so all above it."""
        node = leaf
        while node is not self._root:
            label = self._labels.get(node.id)
            if label is None and user is not None:
                # Here before anyone told us whose it is.
                label = self._labels[node.id] = _Label()
                label.users.add(None)
            if label is not None and user not in label.users and len(label.users) < 2:
                label.users.add(user)
                self._on_change(node)
            node = node.parent

    def added(self, node: N, user: str | None) -> None:
        """The tree has a new leaf, made by a workflow or by somebody unknown."""
        if user is not None:
            self._labels[node.id] = _Label()
            self._labels[node.id].users.add(user)
            self._on_change(node)
        self._move_down(node)

    def split(self, upper: N, lower: N) -> None:
        """A node was cut in two; its identity stays with the lower part."""
        label = self._labels.get(lower.id)
        if label is not None:
            self._labels[upper.id] = label.copy()
            self._on_change(upper)
            self._on_change(lower)
        self._move_down(upper)

    def removed(self, node: N) -> None:
        """A leaf left the tree: its claims wait for it at its parent."""
        label = self._labels.pop(node.id, None)
        if label is None or not label.waiting:
            return
        parent = node.parent
        child_key = node.key.child_key_at(0, self._page_size)
        waiting = self._labels[parent.id].waiting.setdefault(child_key, {})
        for claims in label.waiting.values():
            for claim in claims:
                claim.node = parent
                claim.depth_tokens -= len(node.key)
            waiting.update(claims)

    @property
    def is_behind(self) -> bool:
        """Whether claims are left for `catch_up`."""
        return bool(self._behind)

    def catch_up(self, most: int = AT_ONCE) -> None:
        """Let claims move down that were left behind, so many at most."""
        while most > 0 and self._behind:
            (node_id, child_key), (node, left) = next(iter(self._behind.items()))
            del self._behind[node_id, child_key]
            if node_id in self._labels and child_key in node.children:
                most -= self._descend_some(node, child_key, left, most)

    def check(self) -> None:
        """Assert that labels and claims agree; for tests."""
        claims = [c for label in self._labels.values() for s in label.waiting.values() for c in s]
        covers: dict[int, list[int | None]] = {}
        for claim in claims:
            path = list(self._covered(claim))
            assert claim.depth_tokens == sum(len(node.key) for node in path), "depth is off"
            is_behind = (claim.node.id, self._waits_for(claim)) in self._behind
            assert is_behind or self._next_covered(claim) is None, "a claim rests too high"
            for node in path:
                covers.setdefault(node.id, []).append(claim.distance)
        for node_id, label in self._labels.items():
            noted = [each for each, count in label.distances.items() for _ in range(count)]
            actual = covers.get(node_id, [])
            assert sorted(noted) == sorted(s for s in actual if s is not None), "distances are off"
            assert label.idle == actual.count(None), "idle claims are off"
            assert label.nearest == min(label.distances, default=None), "the nearest is off"

    def _is_doubted(self, user: str | None) -> bool:
        if user is None:
            return False
        return user in self._doubted or tenant_of(user) in self._doubted_tenants

    def _covered(self, claim: Claim[N]) -> list[N]:
        nodes = []
        node = claim.node
        while node is not self._root:
            nodes.append(node)
            node = node.parent
        return nodes

    def _next_covered(self, claim: Claim[N]) -> N | None:
        child_key = self._waits_for(claim)
        child = None if child_key is None else claim.node.children.get(child_key)
        if child is None or len(child.key) > len(claim.key) - claim.depth_tokens:
            return None
        shared = child.key.match_at(claim.key, claim.depth_tokens, page_size=self._page_size)
        return child if shared == len(child.key) else None

    def _waits_for(self, claim: Claim[N]) -> Hashable:
        if len(claim.key) - claim.depth_tokens < self._page_size:
            return None
        return claim.key.child_key_at(claim.depth_tokens, self._page_size)

    def _descend(self, claim: Claim[N]) -> None:
        while (child := self._next_covered(claim)) is not None:
            label = self._labels.get(child.id)
            if label is None:
                label = self._labels[child.id] = _Label()
                label.users.add(None)
            label.cover(claim.distance)
            claim.node = child
            claim.depth_tokens += len(child.key)
            self._on_change(child)
        label = self._labels[claim.node.id]
        label.waiting.setdefault(self._waits_for(claim), {})[claim] = None

    def _rest_no_more(self, claim: Claim[N]) -> None:
        waiting = self._labels[claim.node.id].waiting
        child_key = self._waits_for(claim)
        waiting[child_key].pop(claim, None)
        if not waiting[child_key]:
            del waiting[child_key]

    def _move_down(self, node: N) -> None:
        """Claims that waited for a node move on to it, as far as they cover it."""
        label = self._labels.get(node.parent.id)
        if label is None or not label.waiting:
            return
        child_key = node.key.child_key_at(0, self._page_size)
        self._behind.pop((node.parent.id, child_key), None)
        waiting = label.waiting.get(child_key, ())
        self._descend_some(node.parent, child_key, len(waiting), AT_ONCE)

    def _descend_some(self, node: N, child_key: Hashable, left: int, most: int) -> int:
        """Let `left` claims look at a child, `most` of them now: those that came first."""
        waiting = self._labels[node.id].waiting.get(child_key, {})
        taken = list(islice(waiting, min(left, most)))
        for claim in taken:
            self._rest_no_more(claim)
            self._descend(claim)  # or it waits again, as the last
        if taken and left > len(taken):
            self._behind[node.id, child_key] = (node, left - len(taken))
        return len(taken)
