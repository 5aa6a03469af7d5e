"""The adapter of a framework whose methods are patched: its observer, and who wants to know."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Generic, Protocol, TypeVar

from kvflow_agents.adapter import Subscriptions
from kvflow_agents.carrier import Carrier
from kvflow_agents.failsafe import Failsafe
from kvflow_agents.patches import Patch, Patches
from kvflow_agents.runs import Caller


class Observer(Protocol):
    """Turns what a framework does into plans of workflows."""

    def caller(self) -> Caller | None:
        """Who calls the model, from the context of the call; None for a call that is nobody's."""


ObserverT = TypeVar("ObserverT", bound=Observer)


class Subscribers(Protocol):
    """The carriers that want a run hinted: see `Subscriptions.carriers`."""

    def __call__(
        self, built: Any | None, mentioned: Iterable[object] = ()
    ) -> Collection[Carrier]: ...


class FrameworkAdapter(Generic[ObserverT]):
    """One framework's part of the contract (`kvflow_agents.adapter`)."""

    def __init__(
        self,
        framework: str,
        observer: Callable[[Subscribers], ObserverT],
        find: Callable[[ObserverT, Failsafe], Iterable[Patch]],
    ) -> None:
        self.failsafe = Failsafe(f"a run of {framework}")
        self.subscriptions = Subscriptions(self)
        self.observer = observer(self.subscriptions.carriers)
        self.caller = self.observer.caller
        self.patches = Patches(framework, lambda: find(self.observer, self.failsafe))

    def turn_on(self) -> bool:
        """Watch every run of the framework."""
        return self.patches.apply()

    def turn_off(self) -> None:
        """Give the framework its own methods back."""
        self.patches.remove()
