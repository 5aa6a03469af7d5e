"""Pydantic AI keeps the adapter contract: agents that code asks in turn, and agents in tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic_ai import Agent

import kvflow_agents
import kvflow_pydantic_ai
from kvflow_agents import loops
from kvflow_pydantic_ai._adapter import adapter
from tests.adapter_contract import AdapterContract, Driver, FrameworkDriver
from tests.adapter_lifecycle import AdapterLifecycle
from tests.fake_openai import FakeOpenAI
from tests.pydantic_ai.conftest import model_of


@dataclass
class Program:
    """Agents that are asked in turn."""

    agents: list[Agent[Any, str]]


class ProgramDriver(FrameworkDriver):
    knows_structure = False

    def __init__(self) -> None:
        super().__init__(adapter)
        self.subscriptions = loops.adapter.subscriptions
        self.failsafes = [adapter.failsafe, loops.failsafe]
        self._base_urls: list[str] | None = None

    def turn_on(self, base_urls: list[str]) -> None:
        self._base_urls = base_urls
        kvflow_pydantic_ai.instrument(base_urls=base_urls)

    def turn_off(self) -> None:
        self._base_urls = None
        kvflow_pydantic_ai.uninstrument()

    def build(self, server: FakeOpenAI, names: Sequence[str]) -> Program:
        model = model_of(AsyncOpenAI(base_url=server.base_url, api_key="key", max_retries=0))
        return Program([Agent(model, name=name, instructions="Go on.") for name in names])

    async def run(self, app: Program) -> list[str]:
        if self._base_urls is None:
            return await self._ask_all(app)
        async with kvflow_agents.workflow(base_urls=self._base_urls):
            return await self._ask_all(app)

    def is_empty(self) -> bool:
        return super().is_empty() and not len(adapter.observer._turns)

    async def _ask_all(self, app: Program) -> list[str]:
        return [(await agent.run("hi")).output for agent in app.agents]


class TestProgram(AdapterContract, AdapterLifecycle):
    extra = "pydantic-ai"
    module = "pydantic_ai"
    needed_module = "pydantic_ai._run_context"

    @pytest.fixture
    def driver(self) -> Driver:
        return ProgramDriver()
