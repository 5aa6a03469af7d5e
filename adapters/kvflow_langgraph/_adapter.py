"""The adapter's two halves put together: what LangGraph tells, and who wants to know."""

from __future__ import annotations

from typing import Any

from kvflow_agents import Carrier
from kvflow_agents.adapter import Subscriptions
from kvflow_agents.failsafe import Failsafe
from kvflow_agents.patches import Patches
from kvflow_agents.runs import Caller
from kvflow_langgraph import _patches
from kvflow_langgraph._internals import Loop, handlers_of
from kvflow_langgraph._observer import Observer

CARRIER_ATTRIBUTE = "kvflow_carrier"
"""Under which a callback handler keeps its carrier."""


class LangGraphAdapter:
    """LangGraph's part of the contract (`kvflow_agents.adapter`)."""

    def __init__(self) -> None:
        self.failsafe = Failsafe("a LangGraph run")
        self.observer = Observer(self._carriers_for)
        self.patches = Patches("LangGraph", lambda: _patches.find(self.observer, self.failsafe))
        self.subscriptions = Subscriptions(self)

    def turn_on(self) -> bool:
        """Watch the loops of every graph."""
        return self.patches.apply()

    def turn_off(self) -> None:
        """Give LangGraph its own methods back."""
        self.patches.remove()

    def caller(self) -> Caller | None:
        """The node in whose context a call is made."""
        return self.observer.caller()

    def _carriers_for(self, loop: Loop, graph: Any | None) -> list[Carrier]:
        marks = (getattr(handler, CARRIER_ATTRIBUTE, None) for handler in handlers_of(loop))
        return self.subscriptions.carriers(graph, marks)


adapter = LangGraphAdapter()
