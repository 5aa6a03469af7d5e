"""Microsoft Agent Framework adapter: unmodified workflows tell the server who calls next."""

from kvflow_agent_framework._api import instrument, uninstrument, wrap

__all__ = ["instrument", "uninstrument", "wrap"]
