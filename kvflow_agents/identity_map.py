"""What is remembered of a framework's objects while they live."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

V = TypeVar("V")


class IdentityMap(Generic[V]):
    """A map with weak keys that are told apart by identity: many frameworks' cannot be hashed."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Any], V]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Any) -> V | None:
        """What is remembered of an object."""
        entry = self._entries.get(id(key))
        return None if entry is None else entry[1]

    def pop(self, key: Any) -> V | None:
        """What was remembered of an object, once."""
        entry = self._entries.pop(id(key), None)
        return None if entry is None else entry[1]

    def __setitem__(self, key: Any, value: V) -> None:
        # Its callback runs before the id is free for another object.
        self._entries[id(key)] = (weakref.ref(key, _forget(self._entries, id(key))), value)


def _forget(entries: dict[int, tuple[weakref.ref[Any], V]], key: int) -> Callable[[object], None]:
    def forget(_: object) -> None:
        entries.pop(key, None)

    return forget
