"""What one tenant says of its leaves moves its own leaves, and nobody else's."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvflow_agents.eviction import Preference, Rank, Standing, by_standing, rank
from kvflow_agents.tenant_queue import TenantQueue
from kvflow_agents.tenants import Tenant


@dataclass(eq=False)
class Leaf:
    id: int
    tenant: Tenant
    used_at: float
    tokens: int = 1
    standing: Standing = Standing.ORDINARY
    distance: int | None = None


def by_their_own(tenant: Tenant) -> Preference:
    return by_standing


def queue_of(*leaves: Leaf) -> TenantQueue[Leaf]:
    queue: TenantQueue[Leaf] = TenantQueue(
        lambda leaf: rank(leaf.standing, leaf.distance, leaf.used_at, leaf.id),
        lambda leaf: leaf.tenant,
        lambda leaf: leaf.tokens,
    )
    for leaf in leaves:
        queue.add(leaf)
    return queue


def evict(queue: TenantQueue[Leaf]) -> Leaf | None:
    victim = queue.first(by_their_own)
    if victim is not None:
        queue.gives(victim)
        queue.discard(victim)
    return victim


def drained(queue: TenantQueue[Leaf]) -> list[int]:
    found = []
    while (leaf := evict(queue)) is not None:
        found.append(leaf.id)
    return found


def test_of_one_tenant_the_weakest_reason_goes_first() -> None:
    spent, expected = Standing.SPENT, Standing.EXPECTED
    leaves = [Leaf(1, None, 1, 1, expected, 5), Leaf(2, None, 2), Leaf(3, None, 3, 1, spent)]
    assert drained(queue_of(*leaves)) == [3, 2, 1]


def test_among_tenants_it_is_the_turn_of_the_least_recently_used() -> None:
    assert drained(
        queue_of(Leaf(1, "a", 4), Leaf(2, "b", 3), Leaf(3, "a", 2), Leaf(4, None, 1))
    ) == [*(4, 3, 2, 1)]


def test_who_keeps_its_oldest_leaf_gives_another_and_is_not_asked_again_for_it() -> None:
    kept = Leaf(1, "a", 1, 1, Standing.EXPECTED, 0)
    queue = queue_of(kept, Leaf(2, "b", 2), Leaf(3, "a", 3), Leaf(4, "b", 4))
    assert drained(queue) == [3, 2, 1, 4]


def test_a_large_leaf_is_kept_for_as_much_as_it_holds() -> None:
    kept = Leaf(1, "a", 1, 3, Standing.EXPECTED, 0)
    small = [Leaf(10 + each, "a", 10 + each) for each in range(4)]
    queue = queue_of(kept, Leaf(2, "b", 2), *small)
    assert drained(queue)[:4] == [10, 11, 12, 2]


def test_nobody_is_asked_for_what_only_others_expect() -> None:
    """A flood that is all needed now against a leaf that was used after it."""
    flood = [Leaf(each, "hostile", each, 1, Standing.EXPECTED, 0) for each in range(100)]
    mine = Leaf(1000, "mine", 100.5)
    assert drained(queue_of(*flood, mine))[-1] == 1000


def test_what_is_discarded_is_told_once_with_the_rank_it_had() -> None:
    told: list[tuple[Leaf, Rank]] = []
    queue: TenantQueue[Leaf] = TenantQueue(
        lambda leaf: rank(leaf.standing, None, leaf.used_at, leaf.id),
        lambda leaf: leaf.tenant,
        lambda leaf: leaf.tokens,
        on_discard=lambda leaf, noted: told.append((leaf, noted)),
    )
    leaf = Leaf(1, "a", 7)
    queue.add(leaf)
    queue.discard(leaf)
    queue.discard(leaf)
    assert [(leaf.id, noted.last_access) for leaf, noted in told] == [(1, 7)]
    assert queue.first(by_their_own) is None


def test_a_preference_is_asked_of_the_tenant_whose_turn_it_is() -> None:
    asked: list[Tenant] = []

    def preference_of(tenant: Tenant) -> Preference:
        asked.append(tenant)
        return by_standing

    queue = queue_of(Leaf(1, "a", 2), Leaf(2, "b", 1))
    assert queue.first(preference_of) in queue
    assert asked == ["b"]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 4))
def test_lies_cost_the_liar_alone(seed: int, tenants: int) -> None:
    """Others lose exactly the leaves that they lose if nobody says anything."""
    assert others_victims(seed, tenants, lies=True) == others_victims(seed, tenants, lies=False)


def others_victims(seed: int, tenants: int, *, lies: bool) -> list[int]:
    """Of a random course of events in which tenant 0 may say anything of its leaves."""
    chance, lie = random.Random(seed), random.Random(seed + 1)
    queue = queue_of()
    others: list[Leaf] = []
    lost: list[int] = []
    for now in range(120):
        tenant = chance.randrange(tenants)
        draw = chance.random()
        if draw < 0.5:
            leaf = Leaf(now, str(tenant), now)
            if tenant == 0 and lies:
                leaf.standing = lie.choice(list(Standing))
                leaf.distance = lie.randrange(9) if leaf.standing is Standing.EXPECTED else None
            queue.add(leaf)
            others += [leaf] if tenant else []
        elif draw < 0.65:
            used = chance.random()
            held = [leaf for leaf in others if leaf in queue]
            if held:
                held[int(used * len(held))].used_at = now
        else:
            victim = evict(queue)
            if victim is not None and victim.tenant != "0":
                lost.append(victim.id)
    return lost


@pytest.mark.parametrize("tenants", [1, 3])
def test_the_books_stay_small(tenants: int) -> None:
    queue = queue_of()
    for now in range(2000):
        queue.add(Leaf(now, str(now % tenants), now))
        if now > 10:
            evict(queue)
    assert len(queue) < 20
    assert len(queue._by_recency or ()) < 200
    assert len(queue._queues) <= tenants
