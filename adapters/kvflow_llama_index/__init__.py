"""LlamaIndex adapter: unmodified agents and workflows tell the server who calls the model next."""

from kvflow_llama_index._api import instrument, uninstrument, wrap

__all__ = ["instrument", "uninstrument", "wrap"]
