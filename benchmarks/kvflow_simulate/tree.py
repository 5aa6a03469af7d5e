"""A prefix tree of two tiers, without KV: what is where, who holds it, what goes first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from kvflow_agents.eviction import EvictionQueue, Preference, Rank, Standing, may_displace
from kvflow_agents.prefix import Tokens, common_prefix_tokens

PAGE_SIZE = 1


class TokenKey:
    """A token sequence as the claims see it."""

    __slots__ = ("tokens",)

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def child_key_at(self, offset: int, page_size: int = PAGE_SIZE) -> int:
        """By which of its parent's children a node that begins here is found."""
        return self.tokens[offset]

    def match_at(self, other: TokenKey, offset: int, page_size: int = PAGE_SIZE) -> int:
        """How many of its tokens stand in `other` from `offset` on."""
        part = other.tokens[offset : offset + len(self.tokens)]
        return len(part) if part == self.tokens else common_prefix_tokens(self.tokens, part)


@dataclass(eq=False, slots=True)
class Node:
    """Tokens that are cached together, on the device, on the host or on both."""

    id: int
    key: TokenKey
    parent: Node | None
    children: dict[int, Node] = field(default_factory=dict)
    on_device: bool = False
    on_host: bool = False
    locks: int = 0
    device_children: int = 0
    last_access: int = 0
    leaf_since: int = 0
    """The last access before it was a leaf of the device."""


class Match(NamedTuple):
    """What is cached of a sequence: down to `device` on the device, down to `node` at all."""

    node: Node
    device: Node
    device_tokens: int
    host_tokens: int


class Order(Protocol):
    """What decides who goes first, and hears of each node that is made, cut, moved or dropped."""

    def rank(self, node: Node) -> Rank: ...
    def part_to_evict(self, victim: Node, wanted_tokens: int) -> int:
        """How many tokens of a victim go, from its end."""

    def backs_up(self, node: Node) -> bool: ...
    def added(self, node: Node) -> None: ...
    def split(self, upper: Node, lower: Node) -> None: ...
    def moved(self, node: Node) -> None: ...
    def removed(self, node: Node) -> None: ...
    def preference(self, *, on_host: bool) -> Preference: ...
    def fate(self, rank: Rank, leaf_since: int, *, was_used: bool) -> None: ...


class PrefixTree:
    """A radix tree over tokens, with a write-through host tier if `host_tokens` is not 0.

    A new node that its order does not back up is, once it is not spent any more or used again.
    A node is on the device only if all above it are, on the host likewise. A lock on a node holds
    all above it. Writing to the host takes no time.
    """

    def __init__(
        self, *, device_tokens: int, host_tokens: int, order: Callable[[PrefixTree], Order]
    ) -> None:
        self.device_tokens = device_tokens
        self.host_tokens = host_tokens
        self.device_used = self.host_used = 0
        self.evictable_tokens = 0
        """On the device and not locked."""
        self.root = Node(0, TokenKey(Tokens("q")), None, on_device=True, on_host=True, locks=1)
        self._nodes = 0
        self.accesses = 0
        self._is_evicting = False
        self.on_split: Callable[[Node, Node], None] = lambda upper, lower: None
        self._not_backed_up: set[int] = set()
        self._wanted_backups: list[Node] = []
        self._order = order(self)
        self._device_leaves: EvictionQueue[Node] = EvictionQueue(
            self._order.rank,
            on_discard=lambda node, rank: self._order.fate(
                rank, node.leaf_since, was_used=not self._is_evicting
            ),
        )
        self._host_leaves: EvictionQueue[Node] = EvictionQueue(self._order.rank)

    def match(self, tokens: Tokens) -> Match:
        """The longest cached prefix, cut and touched where it ends."""
        self._back_up_wanted()
        node = self._walk(tokens, len(tokens))
        device, device_tokens, total_tokens = node, 0, 0
        for each in path(node):
            total_tokens += len(each.key)
            if each.on_device:
                device_tokens += len(each.key)
            else:
                device = each.parent or device
        return Match(node, device, device_tokens, total_tokens - device_tokens)

    def cut(self, key: TokenKey) -> None:
        """Make a node end where a key ends, as far as the tree holds the key."""
        self._walk(key.tokens, len(key))

    def insert(self, tokens: Tokens, inserted_tokens: int = 0) -> Node:
        """Cache a sequence whose KV is on the device; the node at its end.

        So much of it the same request has cached before.
        """
        self._back_up_wanted()
        node = self._walk(tokens, len(tokens))
        nodes = [*path(node)][::-1]
        done = sum(len(each.key) for each in nodes)
        is_new = done < len(tokens)
        if is_new:
            nodes.append(self._add(node, tokens[done:]))
        end = 0
        for each in nodes:
            end += len(each.key)
            if not each.on_device:
                self._set_device(each, True)
            if is_new and each is nodes[-1] and not self._order.backs_up(each):
                self._not_backed_up.add(each.id)
            elif not each.on_host and end > inserted_tokens:
                self._back_up(each)
        return nodes[-1] if nodes else node

    def lock(self, node: Node) -> None:
        """Hold a node and all above it where they are."""
        for each in path(node):
            each.locks += 1
            if each.locks == 1:
                self.evictable_tokens -= len(each.key) if each.on_device else 0
                self._sort(each)

    def unlock(self, node: Node) -> None:
        """Give one lock back."""
        for each in path(node):
            assert each.locks > 0, "a node was unlocked once too often"
            each.locks -= 1
            if each.locks == 0:
                self.evictable_tokens += len(each.key) if each.on_device else 0
                self._sort(each)

    def load(self, nodes: list[Node]) -> None:
        """Nodes have come from the host to the device, uppermost first."""
        for node in nodes:
            self._set_device(node, True)

    def evict(self, tokens: int, *, needed_beyond: int | None = None) -> int:
        """Free so many tokens of the device, or what can be; how many.

        With `needed_beyond` only of what is needed beyond that distance.
        """
        self._back_up_wanted()
        freed = 0
        while freed < tokens:
            preference = self._order.preference(on_host=False)
            victim = self._device_leaves.first(preference)
            if victim is None:
                break
            if needed_beyond is not None and not may_displace(
                self._order.rank(victim), needed_beyond, preference
            ):
                break
            assert victim.locks == 0, "a locked node was to be evicted"
            self._spare(victim, tokens - freed)
            freed += len(victim.key)
            self._is_evicting = True
            self._set_device(victim, False)
            self._is_evicting = False
            if not victim.on_host:
                self._remove(victim)
        return freed

    @property
    def device_leaves(self) -> Collection[Node]:
        """What could be evicted from the device now."""
        return self._device_leaves

    def refresh(self, node: Node) -> None:
        """A node's rank may have changed."""
        is_held_back = node.id in self._not_backed_up
        if is_held_back and self._order.rank(node).standing is not Standing.SPENT:
            self._not_backed_up.discard(node.id)
            self._wanted_backups.append(node)
        self._device_leaves.refresh(node)
        self._host_leaves.refresh(node)

    def nodes(self) -> Iterator[Node]:
        """All nodes but the root."""
        stack = [*self.root.children.values()]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def check(self) -> None:
        """Assert that the books are right; for tests."""
        nodes = list(self.nodes())
        device = [node for node in nodes if node.on_device]
        assert self.device_used == sum(len(node.key) for node in device), "device tokens are off"
        assert self.host_used == sum(len(n.key) for n in nodes if n.on_host), "host tokens are off"
        free = sum(len(node.key) for node in device if not node.locks)
        assert self.evictable_tokens == free, "evictable tokens are off"
        assert self.device_used <= self.device_tokens and self.host_used <= self.host_tokens
        for node in nodes:
            assert node.parent is not None and node.on_device | node.on_host, "a node is nowhere"
            assert node.parent.on_device >= node.on_device, "a hole on the device"
            assert node.parent.on_host >= node.on_host, "a hole on the host"
            # The root is always held, once.
            is_held = node.parent is self.root or node.parent.locks >= node.locks
            assert is_held, "a lock with a gap above"
            below = sum(child.on_device for child in node.children.values())
            assert node.device_children == below, "children are off"
            is_leaf = node.on_device and not node.locks and not below
            assert (node in self._device_leaves) == is_leaf, "a leaf is missing"

    def _walk(self, tokens: Tokens, most: int) -> Node:
        """The deepest node of a sequence, after a cut if it ends within one; touches the path."""
        node, done = self.root, 0
        while done < most and (child := node.children.get(tokens[done])) is not None:
            part = tokens[done : done + len(child.key)]
            if part != child.key.tokens:
                node = self._split(child, common_prefix_tokens(part, child.key.tokens))
                break
            node, done = child, done + len(child.key)
        for each in [*path(node)][::-1]:
            self._touch(each)
        return node

    def _touch(self, node: Node) -> None:
        self.accesses += 1
        node.last_access = self.accesses

    def _split(self, lower: Node, tokens: int) -> Node:
        parent = lower.parent
        assert parent is not None and 0 < tokens < len(lower.key)
        whole = lower.key.tokens
        self._nodes += 1
        upper = Node(
            self._nodes,
            TokenKey(whole[:tokens]),
            parent,
            {whole[tokens]: lower},
            on_device=lower.on_device,
            on_host=lower.on_host,
            locks=lower.locks,
            device_children=int(lower.on_device),
            last_access=lower.last_access,
        )
        parent.children[whole[0]] = upper
        lower.key, lower.parent = TokenKey(whole[tokens:]), upper
        if lower.id in self._not_backed_up:
            self._not_backed_up.add(upper.id)
        self._touch(lower)  # as SGLang's tree does it
        self._order.split(upper, lower)
        self.on_split(upper, lower)
        return upper

    def _spare(self, victim: Node, tokens: int) -> None:
        """Cut off what need not go of a leaf, if so many tokens are enough."""
        part_tokens = self._order.part_to_evict(victim, tokens)
        if part_tokens < len(victim.key):
            last_access = victim.last_access
            self._split(victim, len(victim.key) - part_tokens)
            victim.last_access = last_access

    def _add(self, parent: Node, tokens: Tokens) -> Node:
        self._nodes += 1
        self.accesses += 1
        node = Node(self._nodes, TokenKey(tokens), parent, last_access=self.accesses)
        parent.children[tokens[0]] = node
        self._order.added(node)
        return node

    def _remove(self, node: Node) -> None:
        assert node.parent is not None and not node.children
        del node.parent.children[node.key.tokens[0]]
        self._not_backed_up.discard(node.id)
        self._order.removed(node)
        self._sort(node.parent)

    def _back_up_wanted(self) -> None:
        wanted, self._wanted_backups = self._wanted_backups, []
        for node in wanted:
            if node.on_device and not node.on_host:
                self._back_up(node)

    def _back_up(self, node: Node) -> None:
        assert node.parent is not None
        shortfall = self.host_used + len(node.key) - self.host_tokens
        if not node.parent.on_host or len(node.key) > self.host_tokens:
            return
        while shortfall > 0:
            victim = self._host_leaves.first(self._order.preference(on_host=True))
            if victim is None:
                return
            self._spare(victim, shortfall)
            shortfall -= len(victim.key)
            self._set_host(victim, False)
            self._remove(victim)
        self._set_host(node, True)

    def _set_device(self, node: Node, on_device: bool) -> None:
        assert node.parent is not None
        node.on_device = on_device
        sign = 1 if on_device else -1
        self.device_used += sign * len(node.key)
        node.parent.device_children += sign
        if not node.locks:
            self.evictable_tokens += sign * len(node.key)
        self._sort(node)
        self._sort(node.parent)
        self._order.moved(node)

    def _set_host(self, node: Node, on_host: bool) -> None:
        node.on_host = on_host
        self.host_used += len(node.key) if on_host else -len(node.key)
        self._sort(node)
        self._order.moved(node)

    def _sort(self, node: Node) -> None:
        """Keep both sets of leaves in step with one node."""
        if node is self.root:
            return
        is_free = not node.locks
        if is_free and node.on_device and not node.device_children:
            if node not in self._device_leaves:
                node.leaf_since = self.accesses
                self._device_leaves.add(node)
        else:
            self._device_leaves.discard(node)
        if is_free and node.on_host and not node.on_device and not node.children:
            self._host_leaves.add(node)
        else:
            self._host_leaves.discard(node)


def path(node: Node) -> Iterator[Node]:
    """A node and all above it, lowest first, without the root."""
    while node.parent is not None:
        yield node
        node = node.parent


def host_only(node: Node) -> list[Node]:
    """The nodes of a path that the device lacks, uppermost first."""
    return [each for each in path(node) if not each.on_device][::-1]
