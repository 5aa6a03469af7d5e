"""LlamaIndex keeps the adapter contract, with agents that hand over and with steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kvflow_llama_index._adapter import adapter
from tests.adapter_contract import AdapterContract, Driver, FrameworkDriver
from tests.adapter_lifecycle import AdapterLifecycle
from tests.fake_openai import FakeOpenAI
from tests.llama_index import workflows


class TeamDriver(FrameworkDriver):
    def build(self, server: FakeOpenAI, names: Sequence[str]) -> Any:
        return server, names, workflows.chain(server, names)

    async def run(self, app: Any) -> list[str]:
        server, names, team = app
        result = await team.run(user_msg=workflows.script_chain(server, names))
        return [str(result), *(str(call.tool_kwargs["to_agent"]) for call in result.tool_calls)]


class StepsDriver(FrameworkDriver):
    def build(self, server: FakeOpenAI, names: Sequence[str]) -> Any:
        return workflows.line(server, names)

    async def run(self, app: Any) -> list[str]:
        answers: list[str] = await app.run()
        return answers


class TestAgentWorkflow(AdapterContract):
    @pytest.fixture
    def driver(self) -> Driver:
        return TeamDriver(adapter)


class TestWorkflowOfSteps(AdapterContract, AdapterLifecycle):
    extra = "llama-index"
    module = "llama_index.core"
    needed_module = "workflows.runtime.control_loop.runner"

    @pytest.fixture
    def driver(self) -> Driver:
        return StepsDriver(adapter)
