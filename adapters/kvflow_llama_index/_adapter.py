"""The adapter's two halves put together: what LlamaIndex tells, and who wants to know."""

from __future__ import annotations

from kvflow_agents.adapter import Subscriptions
from kvflow_agents.failsafe import Failsafe
from kvflow_agents.patches import Patches
from kvflow_agents.runs import Caller
from kvflow_llama_index import _patches
from kvflow_llama_index._observer import Observer


class LlamaIndexAdapter:
    """LlamaIndex's part of the contract (`kvflow_agents.adapter`)."""

    def __init__(self) -> None:
        self.failsafe = Failsafe("a LlamaIndex run")
        self.observer = Observer(lambda built: self.subscriptions.carriers(built))
        self.patches = Patches("LlamaIndex", lambda: _patches.find(self.observer, self.failsafe))
        self.subscriptions = Subscriptions(self)

    def turn_on(self) -> bool:
        """Watch every workflow."""
        return self.patches.apply()

    def turn_off(self) -> None:
        """Give LlamaIndex its own methods back."""
        self.patches.remove()

    def caller(self) -> Caller | None:
        """The agent or the step in whose context a call is made."""
        return self.observer.caller()


adapter = LlamaIndexAdapter()
