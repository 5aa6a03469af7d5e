"""Pydantic AI adapter: unmodified agents tell the server who calls the model next."""

from kvflow_pydantic_ai._api import instrument, uninstrument, wrap

__all__ = ["instrument", "uninstrument", "wrap"]
