"""Who wants runs hinted: the whole process, a callback handler, a wrapped app."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from kvflow_agents import Carrier, ConfigurationError
from kvflow_agents.courier import Courier
from kvflow_langgraph._internals import Loop, handlers_of
from kvflow_langgraph._observer import Observer
from kvflow_langgraph._patches import Patches

CARRIER_ATTRIBUTE = "kvflow_carrier"
"""Under which a callback handler keeps its carrier."""


class Subscriptions:
    """Keeps LangGraph patched and the carriers installed while anyone needs them."""

    def __init__(self) -> None:
        self.observer = Observer(self._carriers_for)
        self.patches = Patches(self.observer)
        self.courier = Courier()
        self._carriers: list[Carrier] = []
        self._of_process: Carrier | None = None
        self._of_process_urls: tuple[str, ...] | None = None
        self._of_graph: WeakKeyDictionary[Any, Carrier] = WeakKeyDictionary()
        # Reentrant: a handler may be collected, and so unsubscribed, while one is made.
        self._lock = threading.RLock()

    def subscribe(self, base_urls: Iterable[str] | None) -> Carrier:
        """A carrier for runs that mention it; ConfigurationError if it cannot be."""
        with self._lock:
            carrier = Carrier(lambda: self.observer.call(carrier), base_urls, courier=self.courier)
            if self.patches.apply():
                self._carriers.append(carrier)
                try:
                    carrier.install()
                except ConfigurationError:
                    self.unsubscribe(carrier)
                    raise
            return carrier

    def unsubscribe(self, carrier: Carrier) -> None:
        """Hint no more for a carrier; the last to go leaves LangGraph and the SDK as they were."""
        with self._lock:
            carrier.uninstall()
            if carrier in self._carriers:
                self._carriers.remove(carrier)
            if not self._carriers:
                self.patches.remove()

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
        """Undo `subscribe_process`; handlers and wrapped apps keep theirs."""
        with self._lock:
            if self._of_process is not None:
                self.unsubscribe(self._of_process)
                self._of_process = None

    def add_graph(self, graph: Any, carrier: Carrier) -> None:
        """Hint the runs of one compiled graph."""
        self._of_graph[graph] = carrier

    def _carriers_for(self, loop: Loop, graph: Any | None) -> list[Carrier]:
        marks = [getattr(handler, CARRIER_ATTRIBUTE, None) for handler in handlers_of(loop)]
        marks.append(None if graph is None else self._of_graph.get(graph))
        marks.append(self._of_process)
        # Each once: an app can be wrapped, and called with a handler too.
        return list(dict.fromkeys(mark for mark in marks if isinstance(mark, Carrier)))


subscriptions = Subscriptions()
