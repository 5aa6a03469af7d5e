"""A framework's own methods, followed by a word to us; removable without a trace."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from types import ModuleType
from typing import Any, TypeAlias

from kvflow_agents.failsafe import logger

Method: TypeAlias = Callable[..., Any]
"""A framework's method. It runs first and its outcome is passed on, whatever we do."""


@dataclass(frozen=True, slots=True)
class Seam:
    """A method to patch, or a module's function, and the parameters it must have after its first.

    One that `may_take_more` has others besides, in any order: it is passed on as it is called.
    """

    owner: type | ModuleType
    name: str
    parameters: tuple[str, ...]
    is_optional: bool = False
    may_take_more: bool = False

    def is_missing(self) -> bool:
        """Whether the owner itself does not define the method."""
        return self.name not in self.owner.__dict__

    def problem(self) -> str | None:
        """Why the method cannot be patched, None if it can."""
        what = f"{self.owner.__name__}.{self.name}"
        if self.is_missing():
            return None if self.is_optional else f"{what} is missing"
        names = tuple(inspect.signature(self.owner.__dict__[self.name]).parameters)[1:]
        fits = self.parameters == names or (
            self.may_take_more and set(self.parameters) <= set(names)
        )
        return None if fits else f"{what} takes {names}, not {self.parameters}"


Patch: TypeAlias = tuple[Seam, Callable[[Method], Method]]
"""What to patch, and what makes the new method of the old one."""


class Patches:
    """All patches of one framework: in place together, or not at all.

    `find` names them for the installed version: ImportError or AttributeError if that lacks a name
    that is needed, ConfigurationError if the framework is missing.
    """

    def __init__(self, framework: str, find: Callable[[], Iterable[Patch]]) -> None:
        self.problem: str | None = None
        """Why the patches could not be applied the last time."""
        self._framework = framework
        self._find = find
        self._originals: list[tuple[Seam, Method, Method]] = []
        self._has_warned = False

    def fit(self) -> bool:
        """Whether the installed version is known; one that is not gets one warning."""
        return bool(self._originals) or self._fitting() is not None

    def apply(self) -> bool:
        """Whether the patches are in place; an unknown version is left alone, with a warning."""
        if self._originals:
            return True
        patches = self._fitting()
        for seam, wrap in patches or ():
            if not seam.is_missing():
                self._patch(seam, wrap)
        return patches is not None

    def remove(self) -> None:
        """Restore what was there; a patch that somebody has wrapped since goes on, to no effect."""
        for seam, original, ours in self._originals:
            if seam.owner.__dict__[seam.name] is ours:
                setattr(seam.owner, seam.name, original)
        self._originals = []

    def _fitting(self) -> list[Patch] | None:
        """The patches, if all of them can be applied."""
        patches: list[Patch] = []
        try:
            patches = list(self._find())
            problems = (seam.problem() for seam, _ in patches)
            self.problem = next((each for each in problems if each), None)
        except (ImportError, AttributeError) as error:  # of a module, or of what is in it
            self.problem = str(error)
        if self.problem is None:
            return patches
        self._warn(self.problem)
        return None

    def _patch(self, seam: Seam, wrap: Callable[[Method], Method]) -> None:
        original = seam.owner.__dict__[seam.name]
        ours = wraps(original)(wrap(original))
        setattr(seam.owner, seam.name, ours)
        self._originals.append((seam, original, ours))

    def _warn(self, problem: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("kvflow does not know this %s and is off: %s", self._framework, problem)
