"""How much a scheduler remembers: every table of ours, found by looking, so that none is missed."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Set
from itertools import chain
from typing import Any

from kvflow_agents import gathering, receipts, shadow, transitions, workflow_memory
from kvflow_faults.traffic import SALTS

OURS = ("kvflow_agents", "kvflow_sglang")
_PLAIN = (int, float, str, bytes, type(None))

_MEMORY, _RECEIPTS = workflow_memory.Limits(), receipts.ReceiptLimits()
# Each tenant has tables of its own, and no larger ones than anonymous traffic.
_TENANTS = len(SALTS)
# Tables that fill slowly, up to a limit. While one does, so does what hangs on its entries.
LIMITS = {
    "Gathering._paces": gathering.MOST_WORKFLOWS,
    "WorkflowMemory._dormant": _TENANTS * _MEMORY.most_workflows,
    "WorkflowMemory._ended": _TENANTS * _MEMORY.most_workflows,
    "WorkflowMemory._live": _TENANTS * _MEMORY.most_workflows,
    "KnownWorkflow.agents": _TENANTS * _MEMORY.most_agents,
    "Receipts._asked": _TENANTS * _RECEIPTS.most_under_way,
    "Receipts._under_way": _TENANTS * _RECEIPTS.most_under_way,
    "Receipts._workflows": _TENANTS * _RECEIPTS.most_workflows,
    "Shadow._last_use": shadow.MOST_KNOWN,
    "Transitions._fronts": transitions.Limits().most_workflows,
}


def sizes(root: object) -> dict[str, int]:
    """The number of entries by class and attribute; those of the same attribute add up.

    Looks into objects of ours and into containers, not into another library's objects.
    """
    found: Counter[str] = Counter()
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [("", root)]
    while waiting:
        name, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if type(value).__module__.partition(".")[0] in OURS:
            waiting += _attributes(value)
        elif isinstance(value, Mapping | Set | list | tuple | deque | array):
            found[name] += len(value)
            waiting += ((name, inner) for inner in _entries(value))
    return dict(sorted(found.items()))


def _attributes(value: object) -> Iterator[tuple[str, Any]]:
    slots = chain.from_iterable(getattr(each, "__slots__", ()) for each in type(value).__mro__)
    names = {*slots, *getattr(value, "__dict__", ())} - {"__weakref__", "__dict__"}
    kind = type(value).__name__
    return ((f"{kind}.{name}", getattr(value, name)) for name in names if hasattr(value, name))


def _entries(table: Any) -> Iterator[object]:
    """What is in a container; nothing where its first entry is plain: then all are."""
    values = table.values() if isinstance(table, Mapping) else table
    is_plain = isinstance(next(iter(values), None), _PLAIN)
    return iter(()) if is_plain else iter(list(values))
