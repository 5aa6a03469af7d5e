"""The smallest prefix tree that reports to a ledger: what a server's tree does, without KV."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kvflow_agents.app_prompts import Namespace
from kvflow_agents.claims import ClaimLedger
from kvflow_agents.eviction import Standing
from kvflow_agents.prefix import Tokens, common_prefix_tokens

NOWHERE = Namespace()


@dataclass(frozen=True)
class Path:
    """Tokens in a namespace: `kvflow_agents.claims.Key`."""

    tokens: Tokens
    namespace: Namespace = NOWHERE

    def __len__(self) -> int:
        return len(self.tokens)

    def child_key_at(self, offset: int, page_size: int = 1) -> Any:
        assert 0 <= offset <= len(self) - page_size, "no whole page there"
        return self.namespace, tuple(self.tokens[offset : offset + page_size])

    def match_at(self, other: Path, offset: int, page_size: int = 1) -> int:
        assert self.namespace == other.namespace, "keys of two namespaces"
        shared = common_prefix_tokens(self.tokens, other.tokens[offset:])
        return shared - shared % page_size


@dataclass(eq=False)
class TreeNode:
    """`kvflow_agents.claims.Node`."""

    id: int
    key: Path
    parent: Any = None
    children: dict[Any, Any] = field(default_factory=dict)


class RadixTree:
    """Reports every node it adds, splits and removes; keeps whole pages only."""

    def __init__(self, page_size: int = 1) -> None:
        self.page_size = page_size
        self.root = TreeNode(0, path([]))
        self._ids = 0
        self.changed: set[int] = set()
        self.ledger: ClaimLedger[TreeNode] = ClaimLedger(
            self.root, page_size=page_size, on_change=lambda node: self.changed.add(node.id)
        )

    def nodes(self) -> Iterator[TreeNode]:
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack += node.children.values()

    def leaves(self) -> list[TreeNode]:
        found = [node for node in self.nodes() if not node.children]
        return sorted(found, key=lambda node: node.id)

    def path_to(self, node: TreeNode) -> Path:
        parts = []
        namespace = node.key.namespace
        while node.parent is not None:
            parts.append(node.key.tokens)
            node = node.parent
        return Path(sum(reversed(parts), array("q")), namespace)

    def insert(self, whole: Path, user: str | None) -> TreeNode:
        """Make the tree hold a path, and note that `user` has used it; its last node."""
        node = self.grow(whole, user)
        self.ledger.use(node, user)
        return node

    def grow(self, whole: Path, user: str | None) -> TreeNode:
        """Make the tree hold a path, where new for `user`; its last node."""
        whole = self.aligned(whole)
        node, depth = self.walk(whole)
        if depth < len(whole):
            child = self._new(Path(whole.tokens[depth:], whole.namespace), node)
            self.ledger.added(child, user)
            node = child
        return node

    def walk(self, whole: Path) -> tuple[TreeNode, int]:
        """The deepest node within a path, split off at its end; and the tokens down to there."""
        node, depth = self.root, 0
        while depth <= len(whole) - self.page_size:
            child = node.children.get(whole.child_key_at(depth, self.page_size))
            if child is None:
                break
            shared = child.key.match_at(whole, depth, page_size=self.page_size)
            node = child if shared == len(child.key) else self._split(child, shared)
            depth += shared
        return node, depth

    def remove(self, leaf: TreeNode) -> None:
        assert not leaf.children
        del leaf.parent.children[leaf.key.child_key_at(0, self.page_size)]
        self.ledger.removed(leaf)

    def aligned(self, whole: Path) -> Path:
        return Path(whole.tokens[: len(whole) - len(whole) % self.page_size], whole.namespace)

    def make_key(self, tokens: Tokens, prefix_tokens: int, namespace: Namespace) -> Path:
        """`kvflow_agents.foresight.MakeKey`."""
        return self.aligned(Path(tokens[:prefix_tokens], namespace))

    def cut(self, key: Any) -> None:
        self.walk(key)

    def standings(self) -> dict[int, tuple[Standing, int | None]]:
        return {node.id: self.ledger.standing(node) for node in self.nodes()}

    def _new(self, key: Path, parent: TreeNode) -> TreeNode:
        self._ids += 1
        node = TreeNode(self._ids, key, parent)
        parent.children[key.child_key_at(0, self.page_size)] = node
        return node

    def _split(self, child: TreeNode, at: int) -> TreeNode:
        tokens, namespace = child.key.tokens, child.key.namespace
        upper = self._new(Path(tokens[:at], namespace), child.parent)
        child.key, child.parent = Path(tokens[at:], namespace), upper
        upper.children[child.key.child_key_at(0, self.page_size)] = child
        self.ledger.split(upper, child)
        return upper


def path(tokens: Iterable[int], namespace: Namespace = NOWHERE) -> Path:
    return Path(array("q", tokens), namespace)
