"""AutoGen adapter: unmodified teams tell the server who calls the model next."""

from kvflow_autogen._api import instrument, uninstrument, wrap

__all__ = ["instrument", "uninstrument", "wrap"]
