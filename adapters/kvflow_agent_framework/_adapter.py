"""The adapter's two halves put together: what Agent Framework tells, and who wants to know."""

from __future__ import annotations

from kvflow_agent_framework import _patches
from kvflow_agent_framework._observer import Observer
from kvflow_agents.adapter import Subscriptions
from kvflow_agents.failsafe import Failsafe
from kvflow_agents.patches import Patches
from kvflow_agents.runs import Caller


class AgentFrameworkAdapter:
    """Agent Framework's part of the contract (`kvflow_agents.adapter`)."""

    def __init__(self) -> None:
        self.failsafe = Failsafe("an Agent Framework run")
        self.observer = Observer(lambda built: self.subscriptions.carriers(built))
        self.patches = Patches(
            "Agent Framework", lambda: _patches.find(self.observer, self.failsafe)
        )
        self.subscriptions = Subscriptions(self)

    def turn_on(self) -> bool:
        """Watch every workflow and every agent."""
        return self.patches.apply()

    def turn_off(self) -> None:
        """Give Agent Framework its own methods back."""
        self.patches.remove()

    def caller(self) -> Caller | None:
        """The executor, or the agent, in whose context a call is made."""
        return self.observer.caller()


adapter = AgentFrameworkAdapter()
