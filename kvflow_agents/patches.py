"""A framework's own methods, followed by a word to us; removable without a trace."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import TypeAlias

from kvflow_agents.failsafe import logger
from kvflow_agents.originals import Method, Originals

__all__ = ["Method", "Patch", "Patches", "Seam"]


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
        self._originals = Originals()
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
                self._originals.replace(seam.owner, seam.name, wrap)
        return patches is not None

    def remove(self) -> None:
        """Restore what was there; a patch that somebody has wrapped since goes on, to no effect."""
        self._originals.restore()

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

    def _warn(self, problem: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("kvflow does not know this %s and is off: %s", self._framework, problem)
