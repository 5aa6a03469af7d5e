"""The OpenAI Agents SDK keeps the adapter contract: agents that hand over to the next."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest
from agents import Runner
from openai import AsyncOpenAI

from kvflow_openai_agents._adapter import adapter
from tests.adapter_contract import AdapterContract, Driver, FrameworkDriver
from tests.adapter_lifecycle import AdapterLifecycle
from tests.fake_openai import FakeOpenAI
from tests.openai_agents import apps


class OpenAIAgentsDriver(FrameworkDriver):
    def build(self, server: FakeOpenAI, names: Sequence[str]) -> Any:
        server.calls_tools = True
        client = AsyncOpenAI(base_url=server.base_url, api_key="key", max_retries=0)
        return apps.chain(client, names)

    async def run(self, app: Any) -> list[str]:
        result = await Runner.run(app, "hi")
        return [str(item.to_input_item()) for item in result.new_items]

    async def close(self, app: Any) -> None:
        gc.collect()
        adapter.observer.endings.close_collected()

    def is_empty(self) -> bool:
        return super().is_empty() and not len(adapter.observer._traced)


class TestHandoffs(AdapterContract, AdapterLifecycle):
    extra = "openai-agents"
    module = "agents"
    needed_module = "agents.run_internal"

    @pytest.fixture
    def driver(self) -> Driver:
        return OpenAIAgentsDriver(adapter)
