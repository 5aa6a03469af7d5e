"""The adapter's two halves put together: what LangGraph tells, and who wants to know."""

from __future__ import annotations

from kvflow_agents.framework import FrameworkAdapter, Subscribers
from kvflow_langgraph import _patches
from kvflow_langgraph._internals import handlers_of, is_graph
from kvflow_langgraph._observer import Observer

CARRIER_ATTRIBUTE = "kvflow_carrier"
"""Under which a callback handler keeps its carrier."""


def _observer(subscribers: Subscribers) -> Observer:
    return Observer(
        lambda loop, graph: subscribers(
            graph, (getattr(handler, CARRIER_ATTRIBUTE, None) for handler in handlers_of(loop))
        )
    )


adapter = FrameworkAdapter(
    "LangGraph",
    _observer,
    _patches.find,
    takes="a compiled graph (compile it first)",
    accepts=is_graph,
)
