"""Who holds the cache: tokens by standing and by owner, counted when somebody asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from heapq import nlargest
from typing import Generic, NamedTuple, TypeVar

from kvflow_agents.eviction import Standing
from kvflow_agents.expected_tokens import TierTokens

N = TypeVar("N")


class Holding(NamedTuple):
    """What one node holds: its tokens on each tier, why they are kept, and whose they are."""

    standing: Standing
    owner: str | None
    """The one workflow that has used it; None: several have, or somebody unknown."""
    device_tokens: int
    host_tokens: int


class Occupancy(Generic[N]):
    """Sums of what the nodes of a tree hold. Pure; one entry for each node.

    `changed` costs next to nothing: a node is looked at when `count` is called, and no more than
    `most` nodes in one call, so that a large tree which nobody has looked at for long delays
    nobody. What is left is counted by the calls that follow.
    """

    def __init__(self, holding_of: Callable[[N], Holding | None]) -> None:
        """`holding_of` a node is None if it holds nothing, or has left the tree."""
        self._holding_of = holding_of
        self._changed: dict[int, N] = {}
        self._noted: dict[int, Holding] = {}
        self._standings: dict[Standing, list[int]] = {each: [0, 0] for each in Standing}
        self._owners: dict[str | None, list[int]] = {}

    @property
    def uncounted(self) -> int:
        """How many nodes have changed and were not looked at since."""
        return len(self._changed)

    def changed(self, node_id: int, node: N) -> None:
        """A node is new, or what it holds may have changed."""
        self._changed[node_id] = node

    def removed(self, node_id: int) -> None:
        """A node has left the tree."""
        self._changed.pop(node_id, None)
        noted = self._noted.pop(node_id, None)
        if noted is not None:
            self._add(noted, -1)

    def count(self, most: int) -> None:
        """Look at nodes that have changed, `most` of them at most."""
        for _ in range(min(most, len(self._changed))):
            node_id, node = self._changed.popitem()
            noted = self._noted.pop(node_id, None)
            if noted is not None:
                self._add(noted, -1)
            now = self._holding_of(node)
            if now is not None:
                self._noted[node_id] = now
                self._add(now, 1)

    def by_standing(self) -> dict[Standing, TierTokens]:
        """Tokens by why they are kept."""
        return {standing: TierTokens(*sums) for standing, sums in self._standings.items()}

    def of(self, owner: str | None) -> TierTokens:
        """Tokens that only this workflow has used; of None: all others."""
        return TierTokens(*self._owners.get(owner, (0, 0)))

    def largest_owners(
        self, most: int, counts: Callable[[str], bool] = lambda name: True
    ) -> list[tuple[str, TierTokens]]:
        """The workflows that hold most on the device, and those that do on the host. O(owners).

        So many of each, of those that `counts` lets pass, those of the device first.
        """
        owners = [name for name in self._owners if name is not None and counts(name)]
        device = nlargest(most, ((self.of(name).device, name) for name in owners))
        host = nlargest(most, ((self.of(name).host, name) for name in owners))
        holders = dict.fromkeys(name for tokens, name in [*device, *host] if tokens)
        return [(name, self.of(name)) for name in holders]

    def _add(self, held: Holding, sign: int) -> None:
        standing = self._standings[held.standing]
        owner = self._owners.setdefault(held.owner, [0, 0])
        for sums in (standing, owner):
            sums[0] += sign * held.device_tokens
            sums[1] += sign * held.host_tokens
        if owner == [0, 0]:
            del self._owners[held.owner]

    def check(self) -> None:
        """Assert that the sums are those of the nodes; for tests."""
        devices: Counter[Standing] = Counter()
        hosts: Counter[str | None] = Counter()
        for held in self._noted.values():
            devices[held.standing] += held.device_tokens
            hosts[held.owner] += held.host_tokens
        for standing, sums in self._standings.items():
            assert sums[0] == devices[standing], "tokens by standing are off"
        for owner, sums in self._owners.items():
            assert sums[1] == hosts[owner], "tokens by owner are off"
