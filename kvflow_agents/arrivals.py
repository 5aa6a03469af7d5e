"""Requests that have just arrived, before which nothing is loaded ahead."""

from __future__ import annotations

# Where requests arrive all the time: after so many passes in a row something is started.
MOST_PUT_OFF = 4


class Arrivals:
    """Whether requests have arrived of late, pass by pass.

    To start a copy takes the CPU some milliseconds, and a prefill waits for the CPU. The pass
    after an arrival counts too: it sends what the prefill has found.
    """

    def __init__(self) -> None:
        self._put_off = 0
        self._has_arrivals = False
        self._had_arrivals = False

    def note(self) -> None:
        """A request has arrived, to be admitted in this pass if it can be."""
        self._has_arrivals = True

    def go_first(self) -> bool:
        """Once a scheduler pass: whether to put off what could be started in it."""
        has_arrivals, self._has_arrivals = self._has_arrivals, False
        is_busy = has_arrivals or self._had_arrivals
        self._had_arrivals = has_arrivals
        if is_busy and self._put_off < MOST_PUT_OFF:
            self._put_off += 1
            return True
        self._put_off = 0
        return False
