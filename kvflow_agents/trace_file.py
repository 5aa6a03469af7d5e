"""A trace being written: lines go to a file from one daemon thread, in the order they came."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from kvflow_agents import process
from kvflow_agents.failsafe import Failsafe, logger

# Bounds the prompts that are waiting to be hashed.
MOST_WAITING = 256
# Lines wait for what is still to be told of their calls, so long and so many at most.
HOLD_S = 1.0
MOST_HELD = 16


class Line(Protocol):
    """Something that becomes a line."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing more will be told."""

    def values(self) -> Mapping[str, Any]:
        """The line's fields; called in the background."""


class TraceFile:
    """Appends lines to a file; `put` never blocks and never raises.

    What finds the queue full is dropped and counted, what cannot be written is counted. Several
    processes may append to one file. A forked child begins with nothing to write.
    """

    def __init__(self, path: Path, *, most_waiting: int = MOST_WAITING) -> None:
        self.path = path
        self.written = 0
        self.dropped = 0
        self._most_waiting = most_waiting
        self._begin()
        process.at_exit.add(self.flush, 1.0)
        process.in_forked_child.add(self._begin)

    def _begin(self) -> None:
        self._waiting: queue.Queue[Line | None] = queue.Queue(self._most_waiting)
        self._held: deque[Line] = deque()
        self._failsafe = Failsafe("the recording of calls")
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def errors(self) -> int:
        """How often a line could not be written."""
        return self._failsafe.errors

    def put(self, line: Line) -> None:
        """Write a line, some time soon."""
        try:
            self._waiting.put_nowait(line)
            self._start()
        except (queue.Full, RuntimeError):  # or no thread can start: the interpreter ends
            if not self.dropped:
                logger.warning("%s cannot be written fast enough: calls are missing", self.path)
            self.dropped += 1

    def flush(self, timeout_s: float) -> bool:
        """Write all that was put so far, complete or not; False if that takes too long."""
        waiting = self._waiting
        try:
            waiting.put_nowait(None)
            self._start()
        except (queue.Full, RuntimeError):
            return False
        with waiting.all_tasks_done:
            return waiting.all_tasks_done.wait_for(
                lambda: not waiting.unfinished_tasks, timeout=timeout_s
            )

    def _start(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                run = threading.Thread(target=self._run, name="kvflow-trace", daemon=True)
                self._thread = run
                run.start()

    def _run(self) -> None:
        while True:
            try:
                line = self._waiting.get(timeout=HOLD_S if self._held else None)
            except queue.Empty:
                self._write_held(most_held=0)
                continue
            if line is None:
                self._write_held(most_held=0)
            else:
                self._held.append(line)
                self._write_held(most_held=MOST_HELD)
            self._waiting.task_done()

    def _write_held(self, *, most_held: int) -> None:
        while self._held and (len(self._held) > most_held or self._held[0].is_complete):
            self._failsafe(self._write, self._held.popleft())

    def _write(self, line: Line) -> None:
        text = json.dumps(line.values(), separators=(",", ":")) + "\n"
        # One write at the end of the file: lines of several processes do not mix.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        file = os.open(self.path, flags, 0o600)
        try:
            if _is_cut_short(file):
                text = "\n" + text
            os.write(file, text.encode())
        finally:
            os.close(file)
        self.written += 1


def _is_cut_short(file: int) -> bool:
    """Whether whoever wrote last was stopped within a line."""
    size = os.fstat(file).st_size
    if not size:
        return False
    os.lseek(file, size - 1, os.SEEK_SET)
    return os.read(file, 1) != b"\n"
