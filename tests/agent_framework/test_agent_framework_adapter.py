"""Microsoft Agent Framework keeps the adapter contract: a workflow of agents in a line."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from agent_framework import Workflow
from openai import AsyncOpenAI

from kvflow_agent_framework._adapter import adapter
from kvflow_agent_framework._patches import _Wrappers
from kvflow_agents.failsafe import Failsafe
from tests.adapter_contract import AdapterContract, Driver, FrameworkDriver
from tests.adapter_lifecycle import AdapterLifecycle
from tests.agent_framework import flows
from tests.fake_openai import FakeOpenAI


@dataclass
class Flow:
    """A workflow that can be let go."""

    workflow: Workflow | None


class AgentFrameworkDriver(FrameworkDriver):
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
        return super().is_empty() and not len(adapter.observer._scopes)


class TestAgentFramework(AdapterContract, AdapterLifecycle):
    extra = "agent-framework"
    module = "agent_framework"
    needed_module = "agent_framework._workflows._runner_context"

    @pytest.fixture
    def driver(self) -> Driver:
        return AgentFrameworkDriver(adapter)


async def test_arguments_that_a_version_names_in_another_way_reach_the_framework() -> None:
    async def execute(executor: Any, message: Any, sources: Any, *, shared: Any) -> Any:
        return executor, message, sources, shared

    patches = _Wrappers(adapter.observer, Failsafe("a run"))
    patched = patches.execute(execute)
    assert await patched("executor", "hi", sources=[], shared={}) == ("executor", "hi", [], {})
