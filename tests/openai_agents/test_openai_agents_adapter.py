"""The OpenAI Agents SDK keeps the adapter contract: agents that hand over to the next."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest
from agents import Runner
from openai import AsyncOpenAI

import kvflow_openai_agents
from kvflow_openai_agents import _patches
from kvflow_openai_agents._adapter import adapter
from tests.adapter_contract import AdapterContract, Driver
from tests.fake_openai import FakeOpenAI
from tests.openai_agents import apps


class OpenAIAgentsDriver(Driver):
    def __init__(self) -> None:
        self.subscriptions = adapter.subscriptions
        self.failsafes = [adapter.failsafe]

    def turn_on(self, base_urls: list[str]) -> None:
        kvflow_openai_agents.instrument(base_urls=base_urls)

    def turn_off(self) -> None:
        kvflow_openai_agents.uninstrument()

    def patched(self) -> list[object]:
        seams = [seam for seam, _ in _patches.find(adapter.observer, adapter.failsafe)]
        return [seam.owner.__dict__[seam.name] for seam in seams]

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
        gc.collect()
        return not len(adapter.observer._runs) and not len(adapter.observer._traced)


class TestHandoffs(AdapterContract):
    @pytest.fixture
    def driver(self) -> Driver:
        return OpenAIAgentsDriver()
