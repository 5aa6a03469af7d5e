"""What a fork and the end of a process mean to what works in its background."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Any
from weakref import WeakMethod


class Hooks:
    """Methods to call once, or again and again, for as long as their objects live."""

    def __init__(self) -> None:
        self._methods: list[tuple[WeakMethod[Callable[..., Any]], tuple[Any, ...]]] = []

    def __len__(self) -> int:
        return len(self._methods)

    def add(self, method: Callable[..., Any], *args: Any) -> None:
        """Call an object's method, too."""
        self._methods = [entry for entry in self._methods if entry[0]() is not None]
        self._methods.append((WeakMethod(method), args))

    def run(self) -> None:
        """Call the methods of all objects that are left."""
        for reference, args in self._methods:
            method = reference()
            if method is not None:
                method(*args)


in_forked_child = Hooks()
"""What begins anew in a forked child, where no thread of its parent is left to free a lock."""
at_exit = Hooks()
"""What is to be finished when the process ends."""

atexit.register(at_exit.run)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=in_forked_child.run)
