"""Methods of others that ours have taken the place of, and how they get it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from types import ModuleType
from typing import Any, TypeAlias

Method: TypeAlias = Callable[..., Any]
"""A method, or a module's function. It runs first and its outcome is passed on, whatever we do."""


@dataclass(slots=True)
class _Replaced:
    owner: type | ModuleType
    name: str
    original: Method
    ours: Method
    outermost: Method
    """Ours, or what somebody had wrapped around it when it was to go."""

    @property
    def current(self) -> Method | None:
        method: Method | None = self.owner.__dict__.get(self.name)
        return method

    def is_at(self, owner: type | ModuleType, name: str) -> bool:
        return self.owner is owner and self.name == name

    def is_in_place(self) -> bool:
        """Whether a call still comes to ours."""
        method = self.current
        while method is not None:
            if method is self.ours or method is self.outermost:
                return True
            method = getattr(method, "__wrapped__", None)
        return False


class Originals:
    """Replaces methods, and restores them: without a trace, unless others have wrapped ours.

    Ours then stays beneath theirs, and is what the next replacement finds: it never lies on a
    method twice. Its length is the number of methods that are replaced.
    """

    def __init__(self) -> None:
        self._replaced: list[_Replaced] = []
        self._left: list[_Replaced] = []

    def __len__(self) -> int:
        return len(self._replaced)

    def replace(
        self, owner: type | ModuleType, name: str, wrap: Callable[[Method], Method]
    ) -> None:
        """Put in a method's place what `wrap` makes of it."""
        left = next((each for each in self._left if each.is_at(owner, name)), None)
        if left is not None:
            self._left.remove(left)
        if left is None or not left.is_in_place():
            original = owner.__dict__[name]
            # Looked up, for a tracer's wrapper may have its own way to bind.
            ours = wraps(original)(wrap(getattr(owner, name)))
            left = _Replaced(owner, name, original, ours, ours)
            setattr(owner, name, ours)
        self._replaced.append(left)

    def restore(self) -> None:
        """Put the methods back; one that somebody has wrapped since goes on, to no effect."""
        for each in self._replaced:
            if each.current is each.ours:
                setattr(each.owner, each.name, each.original)
            elif each.current is not None:
                each.outermost = each.current
                self._left.append(each)
        self._replaced = []
