"""Microsoft Agent Framework keeps the adapter contract: a workflow of agents in a line."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from agent_framework import Workflow
from openai import AsyncOpenAI

import kvflow_agent_framework
from kvflow_agent_framework import _patches
from kvflow_agent_framework._adapter import adapter
from tests.adapter_contract import AdapterContract, Driver
from tests.agent_framework import flows
from tests.fake_openai import FakeOpenAI


@dataclass
class Flow:
    """A workflow that can be let go."""

    workflow: Workflow | None


class AgentFrameworkDriver(Driver):
    def __init__(self) -> None:
        self.subscriptions = adapter.subscriptions
        self.failsafes = [adapter.failsafe]

    def turn_on(self, base_urls: list[str]) -> None:
        kvflow_agent_framework.instrument(base_urls=base_urls)

    def turn_off(self) -> None:
        kvflow_agent_framework.uninstrument()

    def patched(self) -> list[object]:
        seams = [seam for seam, _ in _patches.find(adapter.observer, adapter.failsafe)]
        return [seam.owner.__dict__[seam.name] for seam in seams]

    def build(self, server: FakeOpenAI, names: Sequence[str]) -> Flow:
        client = AsyncOpenAI(base_url=server.base_url, api_key="key", max_retries=0)
        return Flow(flows.chain(client, names))

    async def run(self, app: Flow) -> list[str]:
        assert app.workflow is not None
        result = await app.workflow.run("hi")
        return [str(output) for output in result.get_outputs()]

    async def close(self, app: Flow) -> None:
        app.workflow = None
        gc.collect()
        adapter.observer.close_collected()

    def is_empty(self) -> bool:
        gc.collect()
        return not len(adapter.observer._runs) and not len(adapter.observer._scopes)


class TestAgentFramework(AdapterContract):
    @pytest.fixture
    def driver(self) -> Driver:
        return AgentFrameworkDriver()
