"""Scopes: where each begins and ends in its application's step graph."""

from __future__ import annotations

from functools import lru_cache

from kvflow_agents.step_graph import StepGraph

ROOT = ""
START = "__start__"
END = "__end__"
INNER_START = f"/{START}"
"""How the start of a subgraph ends."""


@lru_cache(maxsize=8192)
def start_of(scope: str) -> str:
    """The passive node at which a scope begins."""
    return f"{scope}/{START}" if scope else START


def end_of(scope: str) -> str:
    """The passive node at which a scope ends."""
    return f"{scope}/{END}" if scope else END


def entry_of(name: str, graph: StepGraph) -> str:
    """What of a graph runs when an agent does: a subgraph begins at its start."""
    start = start_of(name)
    return start if start in graph.passive else name


def exit_of(name: str) -> str:
    """What of a graph has run when an entry has: a subgraph ends at its end."""
    if not name.endswith(INNER_START):
        return name
    return end_of(name.removesuffix(INNER_START))
