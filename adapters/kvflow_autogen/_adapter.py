"""The adapter's two halves put together: what AutoGen tells, and who wants to know."""

from __future__ import annotations

from kvflow_agents.adapter import Subscriptions
from kvflow_agents.failsafe import Failsafe
from kvflow_agents.patches import Patches
from kvflow_agents.runs import Caller
from kvflow_autogen import _patches
from kvflow_autogen._observer import Observer


class AutoGenAdapter:
    """AutoGen's part of the contract (`kvflow_agents.adapter`)."""

    def __init__(self) -> None:
        self.failsafe = Failsafe("an AutoGen run")
        self.observer = Observer(lambda built: self.subscriptions.carriers(built))
        self.patches = Patches("AutoGen", lambda: _patches.find(self.observer, self.failsafe))
        self.subscriptions = Subscriptions(self)

    def turn_on(self) -> bool:
        """Watch every team and every agent."""
        return self.patches.apply()

    def turn_off(self) -> None:
        """Give AutoGen its own methods back."""
        self.patches.remove()

    def caller(self) -> Caller | None:
        """The agent or the manager in whose context a call is made."""
        return self.observer.caller()


adapter = AutoGenAdapter()
