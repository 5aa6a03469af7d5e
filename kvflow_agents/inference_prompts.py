"""Agents told apart by their prompts alone: the fixed part that many prompts begin with."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from kvflow_agents.prefix import Tokens

CHUNK_TOKENS = 32
"""Coarse on purpose: a chat template's head and the first words after a fixed part lie within
one chunk with what differs, so neither looks like an agent."""
# 4,096 tokens: agents that differ only after these are one.
MAX_CHUNKS = 128
# What one prompt may add; a longer fixed part is learned over several calls.
MAX_NEW_CHUNKS = 32
# So many workflows make an agent of what leads on from a part that lone prompts share.
MANY_WORKFLOWS = 8
# Beyond so many arrivals at a fork, the older half no longer counts.
MAX_ARRIVALS = 512


def chain_of(tokens: Tokens, space: str, most_chunks: int) -> list[int]:
    """A name for each beginning of whole chunks: equal if the tokens and the space are.

    O(tokens), and the same in every process.
    """
    data = tokens[: most_chunks * CHUNK_TOKENS].tobytes()
    chunk_bytes = CHUNK_TOKENS * tokens.itemsize
    digest = hashlib.blake2b(space.encode("utf-8", "backslashreplace"), digest_size=8).digest()
    chain = []
    for start in range(0, len(data) - chunk_bytes + 1, chunk_bytes):
        chunk = data[start : start + chunk_bytes]
        digest = hashlib.blake2b(digest + chunk, digest_size=8).digest()
        chain.append(int.from_bytes(digest))
    return chain


class FixedPart(NamedTuple):
    """What all prompts of one agent begin with."""

    agent: str
    tokens: int
    """Its length, cut to whole chunks."""


@dataclass(slots=True)
class _Node:
    """One chunk after those above it. `lone` children have been passed by one workflow only."""

    workflow: int
    workflows: int = 1
    has_returned: bool = False
    children: int = 0
    lone: int = 0
    arrivals: int = 0
    """Of workflows at children."""

    @property
    def is_lone(self) -> bool:
        return self.workflows == 1 and not self.has_returned

    @property
    def is_scattered(self) -> bool:
        """Whether prompts go their own ways from here, rather than on to agents below."""
        return self.lone > 1 and 2 * self.lone >= self.arrivals

    def add_child(self) -> None:
        self.children += 1
        self.lone += 1
        self.note_arrival()

    def note_arrival(self) -> None:
        self.arrivals += 1
        if self.arrivals > MAX_ARRIVALS:
            self.arrivals //= 2
            self.lone //= 2


_ROOT = 0


class PromptTree:
    """Prompts as chunks, and where they part.

    An agent's fixed part ends where its prompts part for good: most ways on from there are taken
    by one workflow each. Ways that several workflows take, or that one workflow comes back to
    after another way, lead on to agents: what lies above is a head that they share. Costs
    O(chunks of the prompt), at most `MAX_CHUNKS`; what was passed longest ago is forgotten.
    """

    def __init__(self, *, most_nodes: int = 65_536) -> None:
        self._most_nodes = most_nodes
        self._root = _Node(-1)
        # From the least recently passed; a node comes after all that are below it.
        self._nodes: OrderedDict[int, _Node] = OrderedDict()
        # (workflow, fork) -> the way it took there last.
        self._taken: OrderedDict[tuple[int, int], int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def find(self, chain: Sequence[int]) -> FixedPart | None:
        """The fixed part at the beginning of a prompt, if it is that of a known agent."""
        node, depth = self._root, 0
        for key in chain[:MAX_CHUNKS]:
            child = self._nodes.get(key)
            if child is None or not self._leads_on(node, child):
                break
            node, depth = child, depth + 1
        if depth == 0 or not node.is_scattered:
            return None
        return FixedPart(f"{chain[depth - 1]:016x}", depth * CHUNK_TOKENS)

    def see(self, chain: Sequence[int], workflow: int) -> None:
        """A workflow has sent a prompt."""
        node, passed = self._root, 0
        room = MAX_NEW_CHUNKS
        for above, key in pairwise((_ROOT, *chain[:MAX_CHUNKS])):
            child = self._nodes.get(key)
            if child is not None:
                self._pass(node, child, workflow, self._taken.get((workflow, above)), key)
            elif room:
                room -= 1
                child = self._nodes[key] = _Node(workflow)
                node.add_child()
            else:
                break
            if node.children > 1:
                self._taken[workflow, above] = key
                self._taken.move_to_end((workflow, above))
            node, passed = child, passed + 1
        self._forget(chain[:passed])

    def _pass(self, node: _Node, child: _Node, workflow: int, taken: int | None, key: int) -> None:
        if node.children < 2 or taken == key:
            return
        was_lone = child.is_lone
        if child.workflow != workflow:
            child.workflows += 1
            node.note_arrival()
        elif taken is not None:
            child.has_returned = True
        if was_lone and not child.is_lone:
            node.lone = max(node.lone - 1, 0)

    def _leads_on(self, node: _Node, child: _Node) -> bool:
        if node.children < 2:
            return True
        if child.is_lone:
            return False
        is_strong = child.has_returned or child.workflows >= MANY_WORKFLOWS
        return node is self._root or is_strong or not node.is_scattered

    def _forget(self, passed: Sequence[int]) -> None:
        for key in reversed(passed):
            self._nodes.move_to_end(key)
        while len(self._nodes) > self._most_nodes:
            self._nodes.popitem(last=False)
        while len(self._taken) > self._most_nodes:
            self._taken.popitem(last=False)
