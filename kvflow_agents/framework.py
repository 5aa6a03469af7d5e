"""The adapter of a framework whose methods are patched: its observer, and who wants to know."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Generic, Protocol, TypeVar

from kvflow_agents.adapter import Subscriptions
from kvflow_agents.carrier import Carrier
from kvflow_agents.errors import ConfigurationError
from kvflow_agents.failsafe import Failsafe
from kvflow_agents.patches import Patch, Patches
from kvflow_agents.runs import Caller


class Observer(Protocol):
    """Turns what a framework does into plans of workflows."""

    def caller(self) -> Caller | None:
        """Who calls the model, from the context of the call; None for a call that is nobody's."""


ObserverT = TypeVar("ObserverT", bound=Observer)
BuiltT = TypeVar("BuiltT")


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
        *,
        takes: str,
        accepts: Callable[[object], bool],
    ) -> None:
        """`wrap` takes what `accepts` says yes to, in words: `takes`."""
        self._takes = takes
        self._accepts = accepts
        self.failsafe = Failsafe(f"a run of {framework}")
        self.subscriptions = Subscriptions(self)
        self.observer = observer(self.subscriptions.carriers)
        self.caller = self.observer.caller
        self.patches = Patches(framework, lambda: find(self.observer, self.failsafe))

    def wrap(self, built: BuiltT, base_urls: Iterable[str] | None) -> BuiltT:
        """The same application, whose runs are hinted from now on, if it can be wrapped."""
        if self.can_wrap(built):
            self.subscriptions.subscribe_for(built, base_urls)
        return built

    def can_wrap(self, built: object) -> bool:
        """Whether the installed version is known; one that is not gets one warning.

        ConfigurationError if the framework is missing, or `built` is nothing that it runs.
        """
        if not self.patches.fit():
            return False
        if not self._accepts(built):
            raise ConfigurationError(f"wrap() takes {self._takes}, not {type(built).__name__}")
        return True

    def turn_on(self) -> bool:
        """Watch every run of the framework."""
        return self.patches.apply()

    def turn_off(self) -> None:
        """Give the framework its own methods back."""
        self.patches.remove()
