"""The adapter's two halves put together: what CrewAI tells, and who wants to know."""

from __future__ import annotations

from kvflow_agents.adapter import Subscriptions
from kvflow_agents.failsafe import Failsafe
from kvflow_agents.patches import Patches
from kvflow_agents.runs import Caller
from kvflow_crewai import _patches
from kvflow_crewai._observer import Observer


class CrewAIAdapter:
    """CrewAI's part of the contract (`kvflow_agents.adapter`)."""

    def __init__(self) -> None:
        self.failsafe = Failsafe("a CrewAI run")
        self.observer = Observer(lambda built: self.subscriptions.carriers(built))
        self.patches = Patches("CrewAI", lambda: _patches.find(self.observer, self.failsafe))
        self.subscriptions = Subscriptions(self)

    def turn_on(self) -> bool:
        """Watch every crew."""
        return self.patches.apply()

    def turn_off(self) -> None:
        """Give CrewAI its own methods back."""
        self.patches.remove()

    def caller(self) -> Caller | None:
        """The agent in whose turn a call is made."""
        return self.observer.caller()


adapter = CrewAIAdapter()
