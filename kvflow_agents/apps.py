"""The applications of this process: one `App` for every structure, whoever built it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from kvflow_agents.app import App
from kvflow_agents.identity_map import IdentityMap
from kvflow_agents.step_graph import StepGraph

MAX_APPS = 256


class Apps:
    """Finds the app of a framework's object. Reads its structure once in the object's life.

    What is learned is kept by structure: an application that is built anew for every request goes
    on learning where it left off.
    """

    def __init__(self, structure_of: Callable[[Any], StepGraph]) -> None:
        self._structure_of = structure_of
        self._of_object: IdentityMap[App] = IdentityMap()
        self._by_name: OrderedDict[str, App] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, built: Any) -> App:
        """The app of what a run starts with: a compiled graph, a team."""
        with self._lock:
            app = self._of_object.get(built)
            if app is None:
                app = self._of_object[built] = self._shared(App(self._structure_of(built)))
            return app

    def _shared(self, app: App) -> App:
        shared = self._by_name.setdefault(app.name, app)
        self._by_name.move_to_end(app.name)
        if len(self._by_name) > MAX_APPS:
            self._by_name.popitem(last=False)
        return shared
