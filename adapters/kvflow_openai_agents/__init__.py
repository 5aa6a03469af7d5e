"""OpenAI Agents SDK adapter: unmodified agents tell the server who calls the model next."""

from kvflow_openai_agents._api import instrument, uninstrument, wrap

__all__ = ["instrument", "uninstrument", "wrap"]
