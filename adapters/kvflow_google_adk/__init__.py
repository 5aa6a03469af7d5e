"""Google ADK adapter: unmodified agents tell the server who calls the model next."""

from kvflow_google_adk._api import instrument, uninstrument, wrap

__all__ = ["instrument", "uninstrument", "wrap"]
