"""LangGraph adapter: agents of unmodified graphs tell the server who calls the model next."""

from typing import TYPE_CHECKING, Any

from kvflow_langgraph._api import instrument, uninstrument, wrap

if TYPE_CHECKING:
    from kvflow_langgraph._handler import KVFlowCallbackHandler

__all__ = ["KVFlowCallbackHandler", "instrument", "uninstrument", "wrap"]


def __getattr__(name: str) -> Any:
    # A subclass of LangChain's handler: LangChain is imported when it is asked for.
    if name != "KVFlowCallbackHandler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kvflow_langgraph._internals import require_langgraph

    require_langgraph()
    from kvflow_langgraph._handler import KVFlowCallbackHandler

    return KVFlowCallbackHandler
