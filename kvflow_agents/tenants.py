"""Tenants: whose hint it is. Names of one never meet those of another."""

from __future__ import annotations

from typing import TypeAlias

from kvflow_agents.hints import Hint

Tenant: TypeAlias = str | None
"""A server's own name for a tenant; None: anonymous traffic, which nothing tells apart."""

# No name in a hint can hold it.
_END = "\x00"


def scoped(hint: Hint) -> Hint:
    """The hint with names that only its tenant has; that of nobody in particular is as it was."""
    if hint.tenant is None:
        return hint
    app = None if hint.app is None else scoped_name(hint.tenant, hint.app)
    return hint._replace(workflow=scoped_name(hint.tenant, hint.workflow), app=app)


def scoped_name(tenant: Tenant, name: str) -> str:
    """A name that only this tenant has."""
    return name if tenant is None else f"{tenant}{_END}{name}"


def tenant_of(scoped_name: str) -> Tenant:
    """Whose name it is."""
    tenant, end, _ = scoped_name.partition(_END)
    return tenant if end and tenant else None


def own_name(scoped_name: str) -> str:
    """The name as its tenant says it."""
    return scoped_name if tenant_of(scoped_name) is None else scoped_name.partition(_END)[2]
