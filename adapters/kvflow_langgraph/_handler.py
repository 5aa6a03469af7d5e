"""The callback handler that marks the runs it is passed to."""

from __future__ import annotations

from collections.abc import Iterable

from langchain_core.callbacks import BaseCallbackHandler

from kvflow_langgraph._adapter import adapter


class KVFlowCallbackHandler(BaseCallbackHandler):
    """Hints the runs that carry it: `config={"callbacks": [KVFlowCallbackHandler()]}`.

    It listens to no event: that it is there is all the adapter has to know. What it needs is
    undone after the handler is collected.
    """

    ignore_llm = True
    ignore_retry = True
    ignore_chain = True
    ignore_agent = True
    ignore_retriever = True
    ignore_chat_model = True
    ignore_custom_event = True

    def __init__(self, base_urls: Iterable[str] | None = None) -> None:
        self.kvflow_carrier = adapter.subscriptions.subscribe(base_urls)
        adapter.subscriptions.unsubscribe_after(self, self.kvflow_carrier)
