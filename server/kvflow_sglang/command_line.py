"""Whether a server is asked for kvflow, by the command line that starts it."""

from __future__ import annotations

from collections.abc import Sequence

BACKEND = "kvflow"
"""The name of its radix-cache backend."""


def asks_for_kvflow(argv: Sequence[str]) -> bool:
    """Whether the arguments of `sglang serve` name the backend."""
    return BACKEND in argv or f"--radix-cache-backend={BACKEND}" in argv
