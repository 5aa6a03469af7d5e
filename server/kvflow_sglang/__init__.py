"""kvflow for SGLang: a radix cache that evicts by what agents will do next."""

from __future__ import annotations

__all__ = ["register"]


def register() -> None:
    """Entry point `sglang.srt.plugins`; SGLang is imported only when it calls this."""
    from kvflow_sglang.plugin import register as register_plugin

    register_plugin()
