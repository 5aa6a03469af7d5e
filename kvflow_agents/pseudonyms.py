"""Names as they leave the process: as they are, or as keyed hashes (`docs/security.md`)."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache

from kvflow_agents.errors import ConfigurationError
from kvflow_agents.hints import Hint, renamed

NAME_KEY_VARIABLE = "KVFLOW_NAME_KEY"
LEAST_KEY_BYTES = 16
NAME_BYTES = 16
MAX_REMEMBERED = 65_536


class Pseudonyms:
    """What servers are told instead of the names of workflows, apps and agents.

    Processes with the same key tell the same, so that servers learn from all of them. Without a
    key names leave as they are.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = None if key is None else hashlib.blake2b(key).digest()
        # Each call names all agents of its workflow again.
        self._remembered = lru_cache(MAX_REMEMBERED)(self._hash)

    def of(self, name: str) -> str:
        """A name as servers know it."""
        return name if self._key is None else self._remembered(name)

    def hide(self, hint: Hint) -> Hint:
        """A hint as servers may see it."""
        return hint if self._key is None else renamed(hint, self.of)

    def _hash(self, name: str) -> str:
        data = name.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, digest_size=NAME_BYTES, key=self._key or b"").hexdigest()


def from_environment() -> Pseudonyms:
    """Those of `KVFLOW_NAME_KEY`; ConfigurationError if it is short enough to be guessed."""
    key = os.environ.get(NAME_KEY_VARIABLE, "").encode("utf-8", "surrogateescape")
    if not key:
        return Pseudonyms()
    if len(key) < LEAST_KEY_BYTES:
        raise ConfigurationError(
            f"{NAME_KEY_VARIABLE} has {len(key)} bytes, of at least {LEAST_KEY_BYTES}: "
            "names could be guessed"
        )
    return Pseudonyms(key)
