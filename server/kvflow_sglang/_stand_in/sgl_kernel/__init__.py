"""Stands in for `sgl_kernel` on a CPU, where the real wheel cannot be imported.

SGLang's CPU engine imports a few of its names and, for plain decoding, calls none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn


def __getattr__(name: str) -> Callable[..., NoReturn]:
    # Protocols such as `__path__` or `__wrapped__` must stay absent, as in any module.
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def unavailable(*_args: object, **_kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f"sgl_kernel.{name} has no CPU version here: kvflow's CPU engine serves plain "
            "decoding of dense models only (no speculative decoding, no quantized kernels)"
        )

    unavailable.__name__ = name
    return unavailable
