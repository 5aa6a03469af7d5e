"""The adapter contract: what a framework's adapter has to say, and what it gets for that."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from kvflow_agents.carrier import Call, Carrier
from kvflow_agents.courier import courier
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


class _Wrapping(NamedTuple):
    """What was done for an application that is hinted while it lives."""

    urls: tuple[str, ...] | str | None
    carrier: Carrier
    end: weakref.finalize[Any, Any]


class Subscriptions:
    """Who wants runs hinted: the whole process, or holders of a carrier.

    Keeps the adapter on and the carriers installed while anyone needs them.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.courier = courier
        self._adapter = adapter
        self._carriers: list[Carrier] = []
        self._of_process: Carrier | None = None
        self._of_process_urls: tuple[str, ...] | None = None
        self._of_object: IdentityMap[Carrier] = IdentityMap()
        self._wrapped: IdentityMap[_Wrapping] = IdentityMap()
        self._collected: deque[Carrier] = deque()
        # Reentrant: what one method does is part of what others do.
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
            self.close_collected()
            return carrier

    def subscribe_for(self, built: Any, base_urls: Iterable[str] | None) -> None:
        """Hint the runs of one application for as long as it lives.

        Once more with the same servers changes nothing, with others they count from now on.
        """
        urls = base_urls if base_urls is None or isinstance(base_urls, str) else (*base_urls,)
        with self._lock:
            before = self._wrapped.get(built)
            if before is not None and before.urls == urls:
                return
            carrier = self.subscribe(urls)
            if before is not None:
                before.end.detach()
                self.unsubscribe(before.carrier)
            self.mark(built, carrier)
            self._wrapped[built] = _Wrapping(urls, carrier, self.unsubscribe_after(built, carrier))

    def unsubscribe_after(self, holder: object, carrier: Carrier) -> weakref.finalize[Any, Any]:
        """Hint no more for a carrier when its holder is gone, as soon as anything happens here."""
        # A finalizer may run anywhere, under any lock: it only leaves a note.
        end = weakref.finalize(holder, self._collected.append, carrier)
        end.atexit = False
        return end

    def close_collected(self) -> None:
        """Unsubscribe the carriers whose holders are gone."""
        while self._collected:
            self.unsubscribe(self._collected.popleft())

    def unsubscribe(self, carrier: Carrier) -> None:
        """Hint no more for a carrier; the last to go leaves framework and SDK as they were.

        Once more changes nothing.
        """
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
        if self._collected:
            self.close_collected()
        marks = [*mentioned]
        marks.append(None if built is None else self._of_object.get(built))
        marks.append(self._of_process)
        # Each once: an app can be wrapped, and called with a handler too.
        return list(dict.fromkeys(mark for mark in marks if isinstance(mark, Carrier)))
