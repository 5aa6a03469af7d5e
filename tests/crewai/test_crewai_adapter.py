"""CrewAI keeps the adapter contract."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest

import kvflow_crewai
from kvflow_crewai import _patches
from kvflow_crewai._adapter import adapter
from tests.adapter_contract import AdapterContract, Driver
from tests.crewai import crews
from tests.fake_openai import FakeOpenAI


class CrewAIDriver(Driver):
    def __init__(self) -> None:
        self.subscriptions = adapter.subscriptions
        self.failsafes = [adapter.failsafe]

    def turn_on(self, base_urls: list[str]) -> None:
        kvflow_crewai.instrument(base_urls=base_urls)

    def turn_off(self) -> None:
        kvflow_crewai.uninstrument()

    def patched(self) -> list[object]:
        seams = [seam for seam, _ in _patches.find(adapter.observer, adapter.failsafe)]
        return [seam.owner.__dict__[seam.name] for seam in seams]

    def build(self, server: FakeOpenAI, names: Sequence[str]) -> Any:
        return crews.line(server, names)

    async def run(self, app: Any) -> list[str]:
        result = await app.akickoff()
        return [str(output) for output in result.tasks_output]

    async def close(self, app: Any) -> None:
        """A crew's run is over when it is over."""

    def is_empty(self) -> bool:
        gc.collect()
        return not len(adapter.observer._runs)


class TestCrewAI(AdapterContract):
    @pytest.fixture
    def driver(self) -> Driver:
        return CrewAIDriver()
