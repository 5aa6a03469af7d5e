"""How many tokens are kept for agents that are expected to call, on the device and on the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kvflow_agents.tenants import Tenant


class TierTokens(NamedTuple):
    """What a node, or all nodes of an owner, hold in each tier."""

    device: int = 0
    host: int = 0


NOTHING = TierTokens()


class ExpectedTokens:
    """Adds up, for each tenant, the nodes that an expected agent's prefix covers. Pure."""

    def __init__(self) -> None:
        self._of_node: dict[int, TierTokens] = {}
        self._of_tenant: dict[Tenant, TierTokens] = {}

    @property
    def by_tenant(self) -> Mapping[Tenant, TierTokens]:
        """Of those tenants that have any."""
        return self._of_tenant

    def total(self) -> TierTokens:
        """Of all tenants."""
        return TierTokens(*map(sum, zip(NOTHING, *self._of_tenant.values(), strict=True)))

    def of(self, tenant: Tenant) -> TierTokens:
        """Of one tenant."""
        return self._of_tenant.get(tenant, NOTHING)

    def note(self, node_id: int, tenant: Tenant, now: TierTokens) -> bool:
        """What a tenant's node holds by now; whether it has left the device for the host alone.

        Pass `NOTHING` for a node that is gone or not expected.
        """
        before = self._of_node.get(node_id, NOTHING)
        if now == before:
            return False
        if now == NOTHING:
            del self._of_node[node_id]
        else:
            self._of_node[node_id] = now
        self._add(tenant, now.device - before.device, now.host - before.host)
        return bool(before.device and not now.device and now.host)

    def _add(self, tenant: Tenant, device: int, host: int) -> None:
        held = self.of(tenant)
        now = TierTokens(held.device + device, held.host + host)
        if now == NOTHING:
            del self._of_tenant[tenant]
        else:
            self._of_tenant[tenant] = now
