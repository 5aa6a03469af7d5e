"""CrewAI adapter: unmodified crews tell the server who calls the model next."""

from kvflow_crewai._api import instrument, uninstrument, wrap

__all__ = ["instrument", "uninstrument", "wrap"]
