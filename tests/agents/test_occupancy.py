"""Sums of what nodes hold, counted late and a few at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvflow_agents.eviction import Standing
from kvflow_agents.expected_tokens import TierTokens
from kvflow_agents.occupancy import Holding, Occupancy

HOLDINGS = st.builds(
    Holding,
    st.sampled_from(Standing),
    st.sampled_from([None, "v", "w"]),
    st.integers(0, 5),
    st.integers(0, 5),
)


@given(st.lists(st.tuples(st.integers(0, 6), st.none() | HOLDINGS, st.integers(0, 3))))
def test_the_sums_are_those_of_the_nodes(
    changes: list[tuple[int, Holding | None, int]],
) -> None:
    nodes: dict[int, Holding] = {}
    occupancy: Occupancy[int] = Occupancy(nodes.get)
    for node_id, holding, most in changes:
        if holding is None:
            nodes.pop(node_id, None)
            occupancy.removed(node_id)
            if most == 3:
                occupancy.changed(node_id, node_id)  # a late report of a node that is gone
        else:
            nodes[node_id] = holding
            occupancy.changed(node_id, node_id)
        occupancy.count(most)
        occupancy.check()
    occupancy.count(len(nodes))
    assert occupancy.uncounted == 0
    for standing, tokens in occupancy.by_standing().items():
        held = [each for each in nodes.values() if each.standing is standing]
        assert tokens == TierTokens(
            sum(each.device_tokens for each in held), sum(each.host_tokens for each in held)
        )
    for owner in (None, "v", "w"):
        assert occupancy.of(owner).host == sum(
            each.host_tokens for each in nodes.values() if each.owner == owner
        )


def test_one_call_looks_at_so_many_nodes_and_no_more() -> None:
    looked_at: list[int] = []

    def look(node: int) -> Holding:
        looked_at.append(node)
        return Holding(Standing.SPENT, f"w{node % 3}", 10 + node, 0)

    occupancy: Occupancy[int] = Occupancy(look)
    for node in range(10):
        occupancy.changed(node, node)
        occupancy.changed(node, node)
    occupancy.count(4)
    assert (len(looked_at), occupancy.uncounted) == (4, 6)
    occupancy.count(100)
    assert (len(looked_at), occupancy.uncounted) == (10, 0)
    assert occupancy.largest_owners(2) == [("w0", TierTokens(58, 0)), ("w2", TierTokens(45, 0))]


def test_who_holds_much_on_the_host_alone_is_among_the_largest() -> None:
    held = {number: Holding(Standing.ORDINARY, f"w{number}", 1, 0) for number in range(8)}
    held[8] = Holding(Standing.ORDINARY, "on the host", 0, 300_000)
    held[9] = Holding(Standing.ORDINARY, "nothing", 0, 0)
    occupancy: Occupancy[int] = Occupancy(held.__getitem__)
    for node in held:
        occupancy.changed(node, node)
    occupancy.count(10)
    owners = dict(occupancy.largest_owners(8))
    assert owners["on the host"] == TierTokens(0, 300_000)
    assert len(owners) == 9
