"""LlamaIndex keeps the adapter contract, with agents that hand over and with steps."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest

import kvflow_llama_index
from kvflow_llama_index import _patches
from kvflow_llama_index._adapter import adapter
from tests.adapter_contract import AdapterContract, Driver
from tests.fake_openai import FakeOpenAI
from tests.llama_index import workflows


class LlamaIndexDriver(Driver):
    def __init__(self) -> None:
        self.subscriptions = adapter.subscriptions
        self.failsafes = [adapter.failsafe]

    def turn_on(self, base_urls: list[str]) -> None:
        kvflow_llama_index.instrument(base_urls=base_urls)

    def turn_off(self) -> None:
        kvflow_llama_index.uninstrument()

    def patched(self) -> list[object]:
        seams = [seam for seam, _ in _patches.find(adapter.observer, adapter.failsafe)]
        return [seam.owner.__dict__[seam.name] for seam in seams]

    async def close(self, app: Any) -> None:
        """A run without a context of its own is over when it is over."""

    def is_empty(self) -> bool:
        gc.collect()
        return not len(adapter.observer._runs)


class TeamDriver(LlamaIndexDriver):
    def build(self, server: FakeOpenAI, names: Sequence[str]) -> Any:
        return server, names, workflows.chain(server, names)

    async def run(self, app: Any) -> list[str]:
        server, names, team = app
        result = await team.run(user_msg=workflows.script_chain(server, names))
        return [str(result), *(str(call.tool_kwargs["to_agent"]) for call in result.tool_calls)]


class StepsDriver(LlamaIndexDriver):
    def build(self, server: FakeOpenAI, names: Sequence[str]) -> Any:
        return workflows.line(server, names)

    async def run(self, app: Any) -> list[str]:
        answers: list[str] = await app.run()
        return answers


class TestAgentWorkflow(AdapterContract):
    @pytest.fixture
    def driver(self) -> Driver:
        return TeamDriver()


class TestWorkflowOfSteps(AdapterContract):
    @pytest.fixture
    def driver(self) -> Driver:
        return StepsDriver()
