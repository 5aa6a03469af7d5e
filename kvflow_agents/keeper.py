"""The keeper: brings habits from the store when an application runs, and back as it learns."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

from kvflow_agents import process
from kvflow_agents.app import App
from kvflow_agents.failsafe import Failsafe
from kvflow_agents.habits import Habits

VARIABLE = "KVFLOW_STORE"
# Between two writes of one application's habits; the last is at the end of the process.
SAVE_EVERY_S = 30.0
MAX_WAITING = 256


class Store(Protocol):
    """Where habits are kept; `kvflow_agents.habit_store.HabitStore`."""

    def load(self, app: str, habits: Habits) -> bool: ...

    def save(self, app: str, habits: Habits) -> bool: ...


class Keeper:
    """Works in the background: nothing here blocks on a file but `flush`, and nothing raises."""

    def __init__(
        self,
        store: Store,
        *,
        save_every_s: float = SAVE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failsafe = Failsafe("what is learned")
        self._store = store
        self._save_every_s = save_every_s
        self._clock = clock
        self._known: WeakSet[App] = WeakSet()
        self._to_load: list[App] = []
        self._saved_s: dict[str, float] = {}
        self._begin()
        process.at_exit.add(self.flush)
        process.in_forked_child.add(self._begin)

    def _begin(self) -> None:
        """In a forked child, too: what is waiting to be saved is its parent's."""
        self._to_save: dict[str, App] = {}
        self._is_wanted = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        # One at a time at the file; a second look would only wait for the first.
        self._at_work = threading.Lock()

    def began(self, app: App) -> None:
        """A run begins: take in what is kept of its application, once."""
        with self._lock:
            if app in self._known:
                return
            self._known.add(app)
            self._to_load.append(app)
            self._wake()

    def ended(self, app: App) -> None:
        """A run has ended: keep what it has taught, some time."""
        with self._lock:
            if app.name in self._to_save or len(self._to_save) < MAX_WAITING:
                self._to_save[app.name] = app
            if len(self._saved_s) > MAX_WAITING:
                self._saved_s.clear()
            last_s = self._saved_s.get(app.name)
            if last_s is None or self._clock() - last_s >= self._save_every_s:
                self._saved_s[app.name] = self._clock()
                self._wake()

    def flush(self) -> None:
        """Load and save what waits, now."""
        with self._at_work:
            with self._lock:
                to_load, self._to_load = self._to_load, []
                to_save, self._to_save = self._to_save, {}
            for app in to_load:
                self.failsafe(self._store.load, app.name, app.timing.habits)
            for app in to_save.values():
                if self.failsafe(self._store.save, app.name, app.timing.habits) is None:
                    return  # the others would fail too, and the process may be at its end

    def _wake(self) -> None:
        self._is_wanted = True
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="kvflow-store", daemon=True)
            self.failsafe(self._thread.start)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._is_wanted:
                    self._thread = None
                    return
                self._is_wanted = False
            self.flush()


_keeper: Keeper | None = None
_lock = threading.Lock()


def keep_habits(path: str | os.PathLike[str]) -> None:
    """Keep what applications teach in a file, and begin with what is in it."""
    # Not every Python has SQLite, and only this needs it.
    from kvflow_agents.habit_store import HabitStore

    global _keeper
    with _lock:
        _keeper = Keeper(HabitStore(Path(path).expanduser()))


def keeper() -> Keeper | None:
    """The keeper of this process, if `keep_habits` or `KVFLOW_STORE` has named a file."""
    path = os.environ.get(VARIABLE, "").strip()
    if _keeper is None and path:
        keep_habits(path)
    return _keeper
