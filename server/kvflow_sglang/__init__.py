"""kvflow for SGLang: a radix cache that evicts by what agents will do next."""

from __future__ import annotations

import multiprocessing
import os
import sys

__all__ = ["register"]


def register() -> None:
    """Entry point `sglang.srt.plugins`; SGLang is imported only when it calls this."""
    from kvflow_sglang.command_line import asks_for_kvflow
    from kvflow_sglang.compat import transport

    if multiprocessing.parent_process() is None and asks_for_kvflow(sys.argv):
        # Before anything that reads it is imported; SGLang's other processes inherit it.
        transport.prefer_msgpack(os.environ)
    from kvflow_sglang.plugin import register as register_plugin

    register_plugin()
