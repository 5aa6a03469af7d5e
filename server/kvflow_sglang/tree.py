"""The prefix tree that evicts by forecast: SGLang's Python tree core with claims on its nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from kvflow_agents.claims import Claim, ClaimLedger
from kvflow_agents.eviction import (
    Preference,
    Rank,
    Standing,
    beyond_share,
    by_standing,
    may_displace,
    part_to_evict,
    rank,
)
from kvflow_agents.expected_tokens import NOTHING, ExpectedTokens, TierTokens
from kvflow_agents.occupancy import Holding, Occupancy
from kvflow_agents.prefetch import Span
from kvflow_agents.tenant_queue import TenantQueue
from kvflow_agents.tenants import Tenant
from kvflow_sglang.compat.radix_cache import FULL, FullComponent, UnifiedTreeCore, accesses

Node = Any  # sglang's UnifiedTreeNode
Tier = Literal["device", "host"]

# So that no eviction has many to count.
_MOST_UNCOUNTED = 256
ExpectedGoes = Callable[[Tenant], Preference]


@dataclass(frozen=True, slots=True)
class Writer:
    """Whose request is being inserted: its workflow, and its tenant, whose new nodes are."""

    user: str | None = None
    tenant: Tenant = None
    is_told: bool = False
    """Whether `user` has told what comes next; else nothing is certain to be spent."""


@dataclass(frozen=True, slots=True)
class Displacement:
    """Something is being loaded ahead: what may give way to it, and whose it is."""

    beyond: int
    """Only what is needed beyond this distance."""
    tenant: Tenant


ANYBODY = Writer()


class ClaimedTreeCore(UnifiedTreeCore):
    """Reports what happens to its nodes to a ledger, and keeps its leaves in order of eviction.

    The stock core builds a heap of all leaves for every eviction; here both sets of leaves are
    queues that persist.
    """

    ledger: ClaimLedger[Node]
    evictable_device_leaves: TenantQueue[Node]
    evictable_host_leaves: TenantQueue[Node]
    writer: Writer = ANYBODY
    displacing: Displacement | None = None
    # How many expected tokens of one tenant a tier may hold before they compete by recency; None:
    # no limit.
    most_expected_device_tokens: float | None = None
    most_expected_host_tokens: float | None = None
    # Whether a tenant's first expected leaf goes before its first ordinary one, below that limit.
    expected_goes: ExpectedGoes = staticmethod(lambda tenant: by_standing)
    # Whether an expected leaf goes in part. With a host tier each part would stay there as a node.
    evicts_parts: Callable[[], bool] = staticmethod(lambda: False)
    # What the eviction under way is to free; None: not known.
    wanted_tokens: int | None = None
    # Called when a tenant's device leaf is evicted or read: with its rank, with the last access
    # before it was a leaf, and which of both.
    on_fate: Callable[[Tenant, Rank, float, bool], None] = staticmethod(lambda *fate: None)
    # Called for a node that left the device, with how far its nearest agent is from its call.
    on_lost: Callable[[int | None], None] = staticmethod(lambda distance: None)
    # Called for a node that is evicted from a tier, before it is: the node, tier and standing.
    on_evict: Callable[[Node, Tier, Standing], None] = staticmethod(lambda *evicted: None)
    # Called for a node that was cut: its upper part, which is new, and itself.
    on_split: Callable[[Node, Node], None] = staticmethod(lambda upper, lower: None)

    def reset(self) -> None:
        self._tenants: dict[int, str] = {}
        super().reset()
        self.ledger = ClaimLedger(
            self.root_node, page_size=self.page_size, on_change=self._on_claims_change
        )
        self._is_evicting = False
        self.evictable_device_leaves = TenantQueue(
            self._rank, self.tenant_of, _tokens, on_discard=self._left_queue
        )
        self.evictable_host_leaves = TenantQueue(self._rank, self.tenant_of, _tokens)
        self.occupancy: Occupancy[Node] = Occupancy(self._holding)
        self._expected = ExpectedTokens()
        # Of leaves that were locked, perhaps by a request that waits or a backup, and not read yet.
        self._unread_ranks: dict[int, Rank] = {}
        self._leaf_since: dict[int, float] = {}  # of device leaves not read yet
        # Each lock and unlock of a path looks at all its nodes, so they are counted when asked.
        self._uncounted: dict[int, Node] = {}
        self._not_backed_up: set[int] = set()
        self._wanted_backups: list[int] = []

    @property
    def expected(self) -> ExpectedTokens:
        """What is kept for agents with known steps-to-execution."""
        self._count_changed()
        return self._expected

    def count_holdings(self, most_nodes: int) -> None:
        """Bring `occupancy` up to date; so many nodes at most, what is left counts later."""
        self._count_changed()
        self.occupancy.count(most_nodes)

    def tenant_of(self, node: Node) -> Tenant:
        """Whose node it is."""
        return self._tenants.get(node.id)

    def tenant_of_id(self, node_id: int) -> Tenant:
        """The same of a node that may be gone."""
        return self._tenants.get(node_id)

    def first_device_victim(self) -> Node | None:
        """The device leaf to evict next; it stays in the tree."""
        load = self.displacing
        if load is None:
            return self.evictable_device_leaves.first(self._preference_on_device)
        preference = self._preference_on_device(load.tenant)
        victim = self.evictable_device_leaves.first_of(load.tenant, preference)
        if victim is None or not may_displace(self._rank(victim), load.beyond, preference):
            return None
        return victim

    def evict_victim(self, victim: Node, *freed: Any) -> None:
        """Evict a device leaf; what it held is added to what is `freed`."""
        self._note_eviction(victim, "device")
        self._is_evicting = True
        evict = self._demote if victim.backuped else self._delete_unbacked_device_leaf
        try:
            evict(victim, *freed)
        finally:
            self._is_evicting = False

    def cut_victim(self, victim: Node, freed_tokens: int) -> None:
        """Let a victim be no more than has to go, where so much is freed; it stays itself."""
        if self.wanted_tokens is None or not self.evicts_parts():
            return
        standing, _ = self.ledger.standing(victim)
        wanted_tokens = self.wanted_tokens - freed_tokens
        leaf_tokens = len(victim.key)
        part_tokens = part_to_evict(standing, leaf_tokens, wanted_tokens, self.page_size)
        if part_tokens < leaf_tokens:
            last_access_time = victim.last_access_time
            upper, _ = self._split_node(victim.key, victim, leaf_tokens - part_tokens)
            # Nobody has used them.
            upper.last_access_time = victim.last_access_time = last_access_time
            self.evictable_device_leaves.refresh(victim)

    @contextmanager
    def evicting(self, wanted_tokens: int) -> Iterator[None]:
        """An eviction is to free so many tokens."""
        self.wanted_tokens = wanted_tokens
        try:
            yield
        finally:
            self.wanted_tokens = None

    @contextmanager
    def inserting_for(self, writer: Writer) -> Iterator[None]:
        """What is inserted meanwhile is this writer's."""
        before, self.writer = self.writer, writer
        try:
            yield
        finally:
            self.writer = before

    @contextmanager
    def displacing_for(self, load: Displacement) -> Iterator[None]:
        """For what is loaded ahead: no victims that are needed as soon, or another tenant's."""
        self.displacing = load
        try:
            yield
        finally:
            self.displacing = None

    def missing(self, claim: Claim[Node]) -> Span:
        """Which tokens of a claim the host tier has and the device lacks."""
        start, node = claim.depth_tokens, claim.node
        while node.evicted:
            start -= len(node.key)
            node = node.parent
        return start, claim.depth_tokens

    def node_ending_at(self, claim: Claim[Node], tokens: int) -> Node | None:
        """The node on a claim's path that ends after so many of its tokens."""
        end, node = claim.depth_tokens, claim.node
        while end > tokens:
            end -= len(node.key)
            node = node.parent
        return node if end == tokens else None

    def note_read(self, node: Node) -> None:
        """A request has read its prefix down to a node: if that is a leaf, it was used again."""
        noted = self._unread_ranks.pop(node.id, None)
        if noted is not None and all(child.evicted for child in node.children.values()):
            self._meets_fate(node, noted, was_read=True)

    def first_host_victim(self) -> Node | None:
        """The host leaf to evict next; it stays in the tree."""
        return self.evictable_host_leaves.first(self._preference_on_host)

    def node_or_none(self, node_id: int) -> Node | None:
        """A node that may be gone by now."""
        return self._node_arena.get(node_id)

    def pop_wanted_backups(self) -> list[int]:
        """The nodes that were not backed up as spent, and are not spent after all."""
        if not self._wanted_backups:
            return []  # as in nearly every pass
        wanted, self._wanted_backups = self._wanted_backups, []
        return [each for each in wanted if self._can_be_backed_up(self.node_or_none(each))]

    @staticmethod
    def _can_be_backed_up(node: Node | None) -> bool:
        return node is not None and not node.evicted and not node.backuped

    def clips(self, tenant: Tenant) -> bool:
        """Whether a tenant's expected tokens exceed their share of a tier, and so are exposed."""
        return self._clips_on_device(tenant) or self._clips_on_host(tenant)

    def _clips_on_device(self, tenant: Tenant) -> bool:
        return _exceeds(self.expected.of(tenant).device, self.most_expected_device_tokens)

    def _clips_on_host(self, tenant: Tenant) -> bool:
        return _exceeds(self.expected.of(tenant).host, self.most_expected_host_tokens)

    def _preference_on_device(self, tenant: Tenant) -> Preference:
        return self._preference(tenant, clips=self._clips_on_device(tenant))

    def _preference_on_host(self, tenant: Tenant) -> Preference:
        return self._preference(tenant, clips=self._clips_on_host(tenant))

    def _preference(self, tenant: Tenant, *, clips: bool) -> Preference:
        expected_goes = self.expected_goes(tenant)
        return beyond_share(expected_goes) if clips else expected_goes

    def _left_queue(self, node: Node, noted: Rank) -> None:
        if self._is_evicting:
            self._unread_ranks.pop(node.id, None)
            self._meets_fate(node, noted, was_read=False)
        else:
            self._unread_ranks.setdefault(node.id, noted)

    def _meets_fate(self, leaf: Node, noted: Rank, *, was_read: bool) -> None:
        since = self._leaf_since.pop(leaf.id, noted.last_access)
        self.on_fate(self.tenant_of(leaf), noted, since, was_read)

    def _rank(self, node: Node) -> Rank:
        standing, distance = self.ledger.standing(node)
        return rank(standing, distance, node.last_access_time, node.id)

    def _on_claims_change(self, node: Node) -> None:
        self.evictable_device_leaves.refresh(node)
        self.evictable_host_leaves.refresh(node)
        self._count_expected(node)
        if node.id in self._not_backed_up and not self._is_spent(node):
            self._not_backed_up.discard(node.id)
            self._wanted_backups.append(node.id)

    def _is_spent(self, node: Node) -> bool:
        return self.ledger.standing(node)[0] is Standing.SPENT

    def _count_changed(self) -> None:
        while self._uncounted:
            _, node = self._uncounted.popitem()
            if node is not self.root_node:
                self._count_expected(node)

    def _count_expected(self, node: Node) -> None:
        """Keep the totals of expected tokens in step with one node."""
        self.occupancy.changed(node.id, node)
        self._note_expected(node, _held(node) if self.ledger.is_expected(node) else NOTHING)

    def _holding(self, node: Node) -> Holding | None:
        """What a node holds, for `occupancy`."""
        is_in_tree = self.node_or_none(node.id) is node
        if node is self.root_node or not is_in_tree:
            return None
        standing, _ = self.ledger.standing(node)
        return Holding(standing, self.ledger.owner(node), *_held(node))

    def _note_expected(self, node: Node, now: TierTokens) -> None:
        if self._expected.note(node.id, self.tenant_of(node), now):
            self.on_lost(self.ledger.standing(node)[1])

    def _note_eviction(self, node: Node, tier: Tier) -> None:
        leaves = self.evictable_device_leaves if tier == "device" else self.evictable_host_leaves
        leaves.gives(node)
        self.on_evict(node, tier, self.ledger.standing(node)[0])

    # What follows overrides the stock core where a node is made, cut, moved or dropped.

    def _new_node(self, *args: Any, **kwargs: Any) -> Node:
        node = super()._new_node(*args, **kwargs)
        if self.writer.tenant is not None:
            self._tenants[node.id] = self.writer.tenant
        return node

    def _add_new_node(self, *args: Any, **kwargs: Any) -> Node:
        node = super()._add_new_node(*args, **kwargs)
        self._has_child_on_device(node.parent)
        self.ledger.added(node, self.writer.user)
        return node

    def commit_load_back(self, node_id: int, slots: Any, load: Any, *args: Any) -> Any:
        # Where the same is computed again, its parent has been read.
        for each in load.nodes_to_load or ():
            self._has_child_on_device(self.node_by_id(each).parent)
        return super().commit_load_back(node_id, slots, load, *args)

    def _has_child_on_device(self, parent: Node) -> None:
        """When a node is a leaf again it has rested only since then."""
        self._leaf_since.pop(parent.id, None)

    def _split_node(self, key: Any, child: Node, split_len: int) -> tuple[Node, Any]:
        with self.inserting_for(Writer(tenant=self.tenant_of(child))):
            upper, action = super()._split_node(key, child, split_len)
        if child.id in self._not_backed_up:
            self._not_backed_up.add(upper.id)
        self.ledger.split(upper, child)
        self.on_split(upper, child)
        return upper, action

    def _inc_hit_count_and_check(self, node: Node) -> bool:
        is_due: bool = super()._inc_hit_count_and_check(node)
        if is_due and self.writer.is_told and node.hit_count == 1 and self._is_spent(node):
            # Nobody will ask the host for it: the link and the host's memory are for others.
            self._not_backed_up.add(node.id)
            return False
        return is_due

    def _unregister_node(self, node: Node) -> None:
        super()._unregister_node(node)
        self.ledger.removed(node)
        self._not_backed_up.discard(node.id)
        self._unread_ranks.pop(node.id, None)
        self._leaf_since.pop(node.id, None)
        self.occupancy.removed(node.id)
        self._uncounted.pop(node.id, None)
        self._note_expected(node, NOTHING)
        self._tenants.pop(node.id, None)

    def _update_evictable_leaf_sets(self, node: Node) -> None:
        # As the stock core does, but most nodes are in the right sets already: no need to ask.
        device, host = self.evictable_device_leaves, self.evictable_host_leaves
        if self._is_device_leaf(node) != (node in device):
            if node in device:
                device.discard(node)
            else:
                device.add(node)
                self._leaf_since.setdefault(node.id, accesses())
        if self._is_host_leaf(node) != (node in host):
            host.discard(node) if node in host else host.add(node)
        self._uncounted[node.id] = node
        if len(self._uncounted) > _MOST_UNCOUNTED:
            self._count_changed()

    def _evict_host_leaf(self, node: Node, *args: Any, **kwargs: Any) -> None:
        self._note_eviction(node, "host")
        super()._evict_host_leaf(node, *args, **kwargs)

    def commit_backup(self, node_id: int, *args: Any, **kwargs: Any) -> None:
        super().commit_backup(node_id, *args, **kwargs)
        self._count_expected(self.node_by_id(node_id))

    def insert_host(self, *args: Any, **kwargs: Any) -> Any:
        result = super().insert_host(*args, **kwargs)
        if result.inserted_host_node is not None:
            self.ledger.added(self.node_by_id(result.inserted_host_node), None)
        return result


class ClaimedFullComponent(FullComponent):
    """Takes its victims from the tree's queues instead of a heap made for each eviction.

    They go in one step, as many as are wanted, and what they held is freed together: with a step
    for each an eviction took half as long again.
    """

    def _evict_device_start(self, request_cnt: int) -> None:
        self._evict_device_request_cnt = request_cnt

    def _evict_device_next_node(
        self, tracker: Any, device_frees: Any, host_frees: Any, cache_actions: Any
    ) -> None:
        tree, most_tokens = self.tree_core, self._evict_device_request_cnt
        # Where that was not enough for the allocator after all, one at a time.
        wanted_tokens = min(tree.wanted_tokens or 0, most_tokens)
        while tracker[FULL] < most_tokens:
            victim = tree.first_device_victim()
            if victim is None:
                return
            tree.cut_victim(victim, tracker[FULL])
            tree.evict_victim(victim, tracker, device_frees, host_frees, cache_actions)
            if tracker[FULL] >= wanted_tokens:
                return

    def _evict_device_end(self) -> None:
        pass

    def drive_host_eviction(
        self,
        num_tokens: int,
        tracker: Any,
        device_frees: Any,
        host_frees: Any,
        cache_actions: Any,
    ) -> None:
        while tracker[FULL] < num_tokens:
            victim = self.tree_core.first_host_victim()
            if victim is None:
                return
            self.tree_core._evict_host_leaf(
                victim, tracker, device_frees, host_frees, cache_actions=cache_actions
            )


def _tokens(node: Node) -> int:
    return len(node.key)


def _held(node: Node) -> TierTokens:
    data, tokens = node.component_data[FULL], len(node.key)
    return TierTokens(
        device=0 if data.value is None else tokens, host=0 if data.host_value is None else tokens
    )


def _exceeds(tokens: int, most_tokens: float | None) -> bool:
    return most_tokens is not None and tokens > most_tokens
