"""What expected agents hold of each tier, tenant by tenant."""

from __future__ import annotations

from kvflow_agents.expected_tokens import NOTHING, ExpectedTokens, TierTokens


def test_nodes_add_up_for_their_tenants() -> None:
    expected = ExpectedTokens()
    expected.note(1, None, TierTokens(10, 0))
    expected.note(2, None, TierTokens(5, 5))
    expected.note(3, "x", TierTokens(0, 7))
    assert (expected.of(None), expected.of("x")) == ((15, 5), (0, 7))
    assert expected.total() == (15, 12)
    expected.note(2, None, TierTokens(5, 0))
    assert (expected.of(None), expected.total()) == ((15, 0), (15, 7))


def test_what_is_gone_leaves_nothing_behind() -> None:
    expected = ExpectedTokens()
    expected.note(1, "x", TierTokens(10, 10))
    expected.note(1, "x", NOTHING)
    expected.note(2, "y", NOTHING)
    assert not expected.by_tenant
    assert (expected.of("x"), expected.total()) == (NOTHING, NOTHING)


def test_it_is_told_what_has_left_the_device_for_the_host_alone() -> None:
    expected = ExpectedTokens()
    assert not expected.note(1, None, TierTokens(10, 10))
    assert expected.note(1, None, TierTokens(0, 10))
    assert not expected.note(1, None, TierTokens(0, 10))
    assert not expected.note(2, None, TierTokens(0, 10))
    assert not expected.note(3, None, TierTokens(10, 0))
    assert not expected.note(3, None, NOTHING)
