"""CrewAI keeps the adapter contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kvflow_crewai._adapter import adapter
from tests.adapter_contract import AdapterContract, Driver, FrameworkDriver
from tests.adapter_lifecycle import AdapterLifecycle
from tests.crewai import crews
from tests.fake_openai import FakeOpenAI


class CrewAIDriver(FrameworkDriver):
    def build(self, server: FakeOpenAI, names: Sequence[str]) -> Any:
        return crews.line(server, names)

    async def run(self, app: Any) -> list[str]:
        result = await app.akickoff()
        return [str(output) for output in result.tasks_output]


class TestCrewAI(AdapterContract, AdapterLifecycle):
    extra = "crewai"
    module = "crewai"
    needed_module = "crewai.tasks.conditional_task"

    @pytest.fixture
    def driver(self) -> Driver:
        return CrewAIDriver(adapter)
