"""The ends of runs that their caller may go on from."""

from __future__ import annotations

import weakref
from collections import deque

from kvflow_agents.runs import Run, Runs


class Endings:
    """Ends runs for now, and for good when nobody holds their result any more."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._collected: deque[Run] = deque()

    def end(self, run: Run, result: object | None, *, goes_on: bool) -> None:
        """A run is over. One that `goes_on` is never done: its conversation is kept elsewhere.

        Another is done at once if it has no result, for then nobody can go on from it.
        """
        self._runs.end(run, resumable=goes_on or result is not None)
        if result is not None and not goes_on:
            # A finalizer may run anywhere, under any lock: it only leaves a note.
            end = weakref.finalize(result, self._collected.append, run)
            end.atexit = False

    def close_collected(self) -> None:
        """Tell the ends of runs whose results are gone."""
        while self._collected:
            self._collected.popleft().end(resumable=False)
