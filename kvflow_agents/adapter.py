"""The adapter contract: what a framework's adapter has to say, and what it gets for that."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import Any, Protocol

from kvflow_agents.carrier import Call, Carrier
from kvflow_agents.courier import Courier
from kvflow_agents.errors import ConfigurationError
from kvflow_agents.identity_map import IdentityMap
from kvflow_agents.runs import Caller


class Adapter(Protocol):
    """One framework's part: it turns runs into plans of workflows, and names who calls.

    While it is on, it begins a `Run` for every run that `Subscriptions.carriers` has carriers for,
    tells the run's `Workflow` what is planned, has run and is left, and ends the run however it
    went.
    """

    def turn_on(self) -> bool:
        """Watch the framework; False, and one warning, if this version of it is not known.

        ConfigurationError if it is not installed. Called once more while on, it changes nothing.
        """

    def turn_off(self) -> None:
        """Leave the framework as it was."""

    def caller(self) -> Caller | None:
        """Who calls the model, from the context of the call; None for a call that is nobody's."""


class Subscriptions:
    """Who wants runs hinted: the whole process, or holders of a carrier.

    Keeps the adapter on and the carriers installed while anyone needs them.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.courier = Courier()
        self._adapter = adapter
        self._carriers: list[Carrier] = []
        self._of_process: Carrier | None = None
        self._of_process_urls: tuple[str, ...] | None = None
        self._of_object: IdentityMap[Carrier] = IdentityMap()
        # Reentrant: a holder may be collected, and so unsubscribed, while one is made.
        self._lock = threading.RLock()

    def subscribe(self, base_urls: Iterable[str] | None) -> Carrier:
        """A carrier for runs that mention it; ConfigurationError if it cannot be."""

        def identify() -> Call | None:
            caller = self._adapter.caller()
            if caller is None or carrier not in caller.run.carriers:
                return None
            return Call(caller.run.workflow, caller.agent)

        with self._lock:
            carrier = Carrier(identify, base_urls, courier=self.courier)
            if self._adapter.turn_on():
                self._carriers.append(carrier)
                try:
                    carrier.install()
                except ConfigurationError:
                    self.unsubscribe(carrier)
                    raise
            return carrier

    def subscribe_for(self, built: Any, base_urls: Iterable[str] | None) -> None:
        """Hint the runs of one application for as long as it lives."""
        carrier = self.subscribe(base_urls)
        self.mark(built, carrier)
        end = weakref.finalize(built, self.unsubscribe, carrier)
        end.atexit = False

    def unsubscribe(self, carrier: Carrier) -> None:
        """Hint no more for a carrier; the last to go leaves framework and SDK as they were."""
        with self._lock:
            carrier.uninstall()
            if carrier in self._carriers:
                self._carriers.remove(carrier)
            if not self._carriers:
                self._adapter.turn_off()

    def subscribe_process(self, base_urls: Iterable[str] | None) -> None:
        """Hint every run. Once more with the same servers changes nothing."""
        with self._lock:
            urls = base_urls if base_urls is None or isinstance(base_urls, str) else (*base_urls,)
            if self._of_process is None:
                self._of_process = self.subscribe(urls)
                self._of_process_urls = urls if isinstance(urls, tuple) else None
            elif urls not in (None, self._of_process_urls):
                raise ConfigurationError(
                    f"already instrumented for {self._of_process_urls or 'the environment'}; "
                    f"call uninstrument() before instrument(base_urls={urls!r})"
                )

    def unsubscribe_process(self) -> None:
        """Undo `subscribe_process`; other holders of carriers keep theirs."""
        with self._lock:
            if self._of_process is not None:
                self.unsubscribe(self._of_process)
                self._of_process = None

    def mark(self, built: Any, carrier: Carrier) -> None:
        """Hint the runs of one application: a compiled graph, a team."""
        self._of_object[built] = carrier

    def carriers(self, built: Any | None, mentioned: Iterable[object] = ()) -> list[Carrier]:
        """The carriers that want a run hinted: its application's, those it mentions, everyone's."""
        marks = [*mentioned]
        marks.append(None if built is None else self._of_object.get(built))
        marks.append(self._of_process)
        # Each once: an app can be wrapped, and called with a handler too.
        return list(dict.fromkeys(mark for mark in marks if isinstance(mark, Carrier)))
