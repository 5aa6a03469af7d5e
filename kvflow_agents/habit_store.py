"""The store: what applications have taught, kept in one file from process to process."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import zlib
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from kvflow_agents.failsafe import logger
from kvflow_agents.habits import Habits

T = TypeVar("T")

MAX_APPS = 256
MAX_APP_BYTES = 1_000_000
MAX_UNPACKED_BYTES = 20_000_000
# Another process writes for milliseconds; many of them may be at it.
_WAIT_S = 2.0
_SCHEMA = """
create table if not exists habits
(app text primary key, saved_s integer not null, packed blob not null)
"""


class HabitStore:
    """A small SQLite file, safe to share between threads and processes: the last to save wins.

    It holds agents' names, counts and times, nothing of prompts; the `MAX_APPS` saved last. A
    file that is no store of ours is set aside as `<name>.corrupt`, with a warning. What fails
    raises OSError or sqlite3.Error.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, app: str, habits: Habits) -> bool:
        """Take in what is kept of an application; False if nothing is."""
        if not self.path.exists():
            return False
        query = "select packed from habits where app = ?"
        row = self._do(lambda database: database.execute(query, [app]).fetchone())
        if row is None:
            return False
        try:
            habits.load(json.loads(_unpack(row[0])))
        except (ValueError, TypeError, RecursionError, zlib.error) as error:
            logger.warning("what %s keeps of one application is unusable: %s", self.path, error)
            return False
        return True

    def save(self, app: str, habits: Habits) -> bool:
        """Keep what is known of an application, in place of what was kept; False if too large."""
        packed = zlib.compress(json.dumps(habits.dump()).encode("utf-8", "replace"))
        if len(packed) > MAX_APP_BYTES:
            return False
        self._do(lambda database: _write(database, app, packed))
        return True

    def _do(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return self._try(operation)
        except sqlite3.OperationalError:
            raise  # locked, or not to be opened: that is no fault of the file
        except sqlite3.DatabaseError as error:
            self._set_aside(error)
            return self._try(operation)

    def _try(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        with closing(sqlite3.connect(self.path, timeout=_WAIT_S)) as database, database:
            database.execute(_SCHEMA)
            return operation(database)

    def _set_aside(self, error: Exception) -> None:
        aside = self.path.with_name(f"{self.path.name}.corrupt")
        # With the journal of a write cut short, which would be applied to the new file.
        for suffix in ("-journal", ""):
            with suppress(FileNotFoundError):
                os.replace(f"{self.path}{suffix}", f"{aside}{suffix}")
        logger.warning("%s is not usable (%s): kept as %s, begun anew", self.path, error, aside)


def _write(database: sqlite3.Connection, app: str, packed: bytes) -> None:
    row = [app, int(time.time()), packed]
    database.execute("insert or replace into habits values (?, ?, ?)", row)
    database.execute(
        "delete from habits where app not in"
        " (select app from habits order by saved_s desc, rowid desc limit ?)",
        [MAX_APPS],
    )


def _unpack(packed: object) -> bytes:
    if not isinstance(packed, bytes):
        raise TypeError("not bytes")
    unpacked = zlib.decompressobj()
    plain = unpacked.decompress(packed, MAX_UNPACKED_BYTES)
    if unpacked.unconsumed_tail:
        raise ValueError("too large")
    return plain
