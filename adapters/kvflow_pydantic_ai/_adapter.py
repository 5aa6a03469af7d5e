"""The adapter's two halves put together: what Pydantic AI tells, and who wants to know."""

from __future__ import annotations

from kvflow_agents.adapter import Subscriptions
from kvflow_agents.failsafe import Failsafe
from kvflow_agents.patches import Patches
from kvflow_agents.runs import Caller
from kvflow_pydantic_ai import _patches
from kvflow_pydantic_ai._observer import Observer


class PydanticAIAdapter:
    """Pydantic AI's part of the contract (`kvflow_agents.adapter`)."""

    def __init__(self) -> None:
        self.failsafe = Failsafe("a Pydantic AI run")
        self.observer = Observer(lambda built: self.subscriptions.carriers(built))
        self.patches = Patches("Pydantic AI", lambda: _patches.find(self.observer, self.failsafe))
        self.subscriptions = Subscriptions(self)

    def turn_on(self) -> bool:
        """Watch the runs of every agent."""
        return self.patches.apply()

    def turn_off(self) -> None:
        """Give Pydantic AI its own method back."""
        self.patches.remove()

    def caller(self) -> Caller | None:
        """The agent in whose run a call is made."""
        return self.observer.caller()


adapter = PydanticAIAdapter()
