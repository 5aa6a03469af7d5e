"""Claims stay where the tree holds them, whatever happens to the tree."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from kvflow_agents import claims
from kvflow_agents.app_prompts import Namespace
from kvflow_agents.claims import Claim
from kvflow_agents.eviction import Standing
from tests.agents.radix_tree import Path, RadixTree, TreeNode, path

ORDINARY = (Standing.ORDINARY, None)
SPENT = (Standing.SPENT, None)


def expected(steps: int) -> tuple[Standing, int]:
    return (Standing.EXPECTED, steps)


def test_a_claim_covers_whole_nodes_down_to_its_end() -> None:
    tree = RadixTree()
    short = tree.insert(path([1, 2]), "w")
    long = tree.insert(path([1, 2, 3, 4]), "w")
    claim = tree.ledger.place(path([1, 2, 3]), 5)
    assert tree.standings() == {short.id: expected(5), long.id: SPENT}
    assert (claim.node, claim.depth_tokens) == (short, 2)
    tree.cut(path([1, 2, 3]))
    assert claim.depth_tokens == 3
    assert tree.ledger.standing(claim.node) == expected(5)
    assert tree.ledger.standing(long) == SPENT
    tree.ledger.check()


def test_the_nearest_agent_counts() -> None:
    tree = RadixTree()
    node = tree.insert(path([1, 2]), "w")
    far, near = tree.ledger.place(path([1, 2]), 7), tree.ledger.place(path([1, 2]), 2)
    assert tree.ledger.standing(node) == expected(2)
    tree.ledger.set_steps(near, 9)
    assert tree.ledger.standing(node) == expected(7)
    tree.ledger.remove(far)
    assert tree.ledger.standing(node) == expected(9)
    tree.ledger.set_steps(near, None)
    assert tree.ledger.standing(node) == ORDINARY  # somebody's prefix, though not expected
    tree.ledger.remove(near)
    assert tree.ledger.standing(node) == SPENT


def test_what_two_have_used_or_somebody_unknown_is_never_spent() -> None:
    tree = RadixTree()
    mine = tree.insert(path([1, 2]), "w")
    assert tree.ledger.standing(mine) == SPENT
    tree.insert(path([1, 2]), "other")
    assert tree.ledger.standing(mine) == ORDINARY
    chat = tree.insert(path([3, 4]), None)
    tree.insert(path([3, 4]), "w")
    assert tree.ledger.standing(chat) == ORDINARY
    claimed = tree.insert(path([7, 8]), None)
    claim = tree.ledger.place(path([7, 8]), 1)
    tree.insert(path([7, 8]), "w")
    tree.ledger.remove(claim)
    assert tree.ledger.standing(claimed) == ORDINARY
    seen = tree.insert(path([5, 6]), "w")
    tree.insert(path([5, 6]), None)
    assert tree.ledger.standing(seen) == ORDINARY


def test_what_the_tree_lacks_is_claimed_as_it_comes_and_again_as_it_comes_back() -> None:
    tree = RadixTree()
    claim = tree.ledger.place(path([1, 2, 3, 4]), 1)
    assert (claim.node, claim.depth_tokens) == (tree.root, 0)
    first = tree.insert(path([1, 2]), None)
    assert tree.ledger.standing(first) == expected(1)
    second = tree.insert(path([1, 2, 3, 4]), None)
    assert (claim.node, claim.depth_tokens) == (second, 4)
    tree.remove(second)
    assert (claim.node, claim.depth_tokens) == (first, 2)
    tree.ledger.check()
    back = tree.insert(path([1, 2, 3, 4, 5]), None)
    assert claim.node is first  # it ends within the new node
    tree.cut(path([1, 2, 3, 4]))
    assert claim.node is back.parent
    tree.ledger.check()


def test_a_claim_shorter_than_a_page_covers_nothing() -> None:
    tree = RadixTree(page_size=4)
    node = tree.insert(path(range(8)), "w")
    claim = tree.ledger.place(tree.aligned(path(range(3))), 0)
    assert claim.node is tree.root
    assert tree.ledger.standing(node) == SPENT
    tree.ledger.check()


def test_equal_tokens_of_another_namespace_are_not_claimed() -> None:
    tree = RadixTree()
    here = tree.insert(path([1, 2], Namespace("lora-a")), "w")
    there = tree.insert(path([1, 2], Namespace("lora-b")), "w")
    tree.ledger.place(path([1, 2], Namespace("lora-a")), 0)
    assert tree.standings() == {here.id: expected(0), there.id: SPENT}


def test_the_same_steps_again_touch_nothing() -> None:
    tree = RadixTree()
    tree.insert(path([1, 2]), "w")
    claim = tree.ledger.place(path([1, 2]), 3)
    tree.changed.clear()
    tree.ledger.set_steps(claim, 3)
    assert not tree.changed


def test_of_many_claims_that_wait_for_a_node_a_few_move_at_once_and_all_in_time() -> None:
    tree = RadixTree()
    most = claims.AT_ONCE
    waiting = [tree.ledger.place(path([1, 2, 3 + each]), each) for each in range(3 * most)]
    node = tree.insert(path([1, 2]), "w")
    assert [claim.depth_tokens for claim in waiting] == [2] * most + [0] * 2 * most
    assert tree.ledger.standing(node) == expected(0)
    # Who goes meanwhile, and a node that is cut or goes, are no matter.
    tree.ledger.remove(waiting.pop())
    tree.cut(path([1]))
    tree.ledger.check()
    for _ in range(4):
        tree.ledger.catch_up()
    tree.ledger.check()
    assert not tree.ledger.is_behind
    assert {claim.depth_tokens for claim in waiting} == {2}
    tree.remove(node)
    tree.insert(path([1, 2]), "w")
    tree.remove(tree.leaves()[0])
    tree.ledger.catch_up()
    assert not tree.ledger.is_behind
    tree.ledger.check()


@dataclass
class Uses:
    """Who has used which path when: all that a brute-force reading of users needs."""

    log: list[tuple[int, Path, str | None]] = field(default_factory=list)
    born: dict[int, int] = field(default_factory=dict)

    def note(self, whole: Path, user: str | None) -> None:
        self.log.append((len(self.log), whole, user))

    def users_of(self, node: TreeNode, whole: Path) -> set[str | None]:
        born = self.born[node.id]
        return {user for at, used, user in self.log if at >= born and is_within(whole, used)}


def is_within(upper: Path, lower: Path) -> bool:
    same = upper.namespace == lower.namespace
    return same and lower.tokens[: len(upper)] == upper.tokens


class LedgerMachine(RuleBasedStateMachine):
    """Any operations in any order, against reading claims and users off the tree one by one."""

    paths = st.builds(
        path,
        st.lists(st.integers(0, 1), min_size=1, max_size=8),
        st.sampled_from([Namespace(), Namespace("lora")]),
    )
    users = st.sampled_from(["v", "w", None])
    steps = st.one_of(st.none(), st.integers(0, 3))
    picks = st.integers(0, 1000)

    @initialize(page_size=st.sampled_from([1, 2]), at_once=st.sampled_from([1, claims.AT_ONCE]))
    def start(self, page_size: int, at_once: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(claims, "AT_ONCE", at_once)
        self.tree = RadixTree(page_size)
        self.claims: list[Claim[TreeNode]] = []
        self.uses = Uses()
        self.before: dict[int, tuple[Standing, int | None]] = {}

    @rule(whole=paths, user=users)
    def insert(self, whole: Path, user: str | None) -> None:
        self.cut(whole)
        now = len(self.uses.log)
        self.tree.insert(whole, user)
        self.uses.note(self.tree.aligned(whole), user)
        for node in self.tree.nodes():
            self.uses.born.setdefault(node.id, now)

    @rule(whole=paths)
    def cut(self, whole: Path) -> None:
        self.tree.cut(whole)
        for node in self.tree.nodes():
            if node.id not in self.uses.born:  # a split: as old as what it was cut from
                (lower,) = node.children.values()
                self.uses.born[node.id] = self.uses.born[lower.id]

    @precondition(lambda self: self.tree.leaves())
    @rule(pick=picks)
    def remove_leaf(self, pick: int) -> None:
        leaves = self.tree.leaves()
        self.tree.remove(leaves[pick % len(leaves)])

    @rule(key=paths, steps=steps)
    def place(self, key: Path, steps: int | None) -> None:
        self.claims.append(self.tree.ledger.place(self.tree.aligned(key), steps))

    @precondition(lambda self: self.claims)
    @rule(pick=picks)
    def remove_claim(self, pick: int) -> None:
        self.tree.ledger.remove(self.claims.pop(pick % len(self.claims)))

    @precondition(lambda self: self.claims)
    @rule(pick=picks, steps=steps)
    def set_steps(self, pick: int, steps: int | None) -> None:
        self.tree.ledger.set_steps(self.claims[pick % len(self.claims)], steps)

    @precondition(lambda self: self.tree.leaves())
    @rule(pick=picks, user=users)
    def use(self, pick: int, user: str | None) -> None:
        nodes = sorted(self.tree.nodes(), key=lambda node: node.id)
        node = nodes[pick % len(nodes)]
        self.tree.ledger.use(node, user)
        self.uses.note(self.tree.path_to(node), user)

    @rule(most=st.integers(1, 3))
    def catch_up(self, most: int) -> None:
        self.tree.ledger.catch_up(most)

    def teardown(self) -> None:
        self.patch.undo()

    @invariant()
    def books_are_right(self) -> None:
        self.tree.ledger.check()

    @invariant()
    def standings_are_those_of_brute_force(self) -> None:
        if self.tree.ledger.is_behind:
            return
        assert self.tree.standings() == {node.id: self.read(node) for node in self.tree.nodes()}

    @invariant()
    def every_change_was_reported(self) -> None:
        now = self.tree.standings()
        moved = {number for number in now if now[number] != self.before.get(number, ORDINARY)}
        assert moved <= self.tree.changed
        self.tree.changed.clear()
        self.before = now

    @invariant()
    def labels_are_kept_of_nodes_in_the_tree_only(self) -> None:
        held = {node.id for node in self.tree.nodes()}
        assert self.tree.ledger._labels.keys() - {self.tree.root.id} <= held

    def read(self, node: TreeNode) -> tuple[Standing, int | None]:
        whole = self.tree.path_to(node)
        covering = [claim.steps for claim in self.claims if is_within(whole, as_path(claim))]
        known = [steps for steps in covering if steps is not None]
        if known:
            return Standing.EXPECTED, min(known)
        users = self.uses.users_of(node, whole)
        is_private = len(users) == 1 and None not in users
        return SPENT if is_private and not covering else ORDINARY


def as_path(claim: Claim[TreeNode]) -> Path:
    assert isinstance(claim.key, Path)
    return claim.key


LedgerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLedgerMachine = LedgerMachine.TestCase
