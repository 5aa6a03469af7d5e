"""LangGraph keeps the adapter contract."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph
from pydantic import SecretStr

import kvflow_langgraph
from kvflow_langgraph._adapter import adapter
from kvflow_langgraph._internals import find_seams
from tests.adapter_contract import AdapterContract, Driver
from tests.fake_openai import FakeOpenAI
from tests.langgraph import graphs


class LangGraphDriver(Driver):
    def __init__(self) -> None:
        self.subscriptions = adapter.subscriptions
        self.failsafes = [adapter.failsafe]

    def turn_on(self, base_urls: list[str]) -> None:
        kvflow_langgraph.instrument(base_urls=base_urls)

    def turn_off(self) -> None:
        kvflow_langgraph.uninstrument()

    def patched(self) -> list[object]:
        seams = find_seams()
        ours = [getattr(seams, name) for name in seams.__slots__]
        return [seam.owner.__dict__.get(seam.name) for seam in ours]

    def build(self, server: FakeOpenAI, names: Sequence[str]) -> Any:
        model = ChatOpenAI(
            model="fake", base_url=server.base_url, api_key=SecretStr("key"), max_retries=0
        )

        def call(state: graphs.State) -> graphs.State:
            return {"trail": [str(model.invoke("Go on.").content)]}

        graph = StateGraph(graphs.State)
        for name in names:
            graph.add_node(name, call)
        for before, after in zip([START, *names], names, strict=False):
            graph.add_edge(before, after)
        return graph.compile()

    async def run(self, app: Any) -> list[str]:
        # Its asynchronous client belongs to one event loop, and there are several here.
        import asyncio

        return list((await asyncio.to_thread(app.invoke, {"trail": []}))["trail"])

    async def close(self, app: Any) -> None:
        pass

    def is_empty(self) -> bool:
        gc.collect()
        observer = adapter.observer
        return not observer._scopes and not observer._tasks and not len(observer._runs)


class TestLangGraph(AdapterContract):
    @pytest.fixture
    def driver(self) -> Driver:
        return LangGraphDriver()
