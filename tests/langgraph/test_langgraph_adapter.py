"""LangGraph keeps the adapter contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph
from pydantic import SecretStr

from kvflow_langgraph._adapter import adapter
from tests.adapter_contract import AdapterContract, Driver, FrameworkDriver
from tests.adapter_lifecycle import AdapterLifecycle
from tests.fake_openai import FakeOpenAI
from tests.langgraph import graphs


class LangGraphDriver(FrameworkDriver):
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

    def is_empty(self) -> bool:
        observer = adapter.observer
        return super().is_empty() and not observer._scopes and not observer._tasks


class TestLangGraph(AdapterContract, AdapterLifecycle):
    extra = "langgraph"
    module = "langgraph"
    needed_module = "langgraph.pregel._runner"

    @pytest.fixture
    def driver(self) -> Driver:
        return LangGraphDriver(adapter)
