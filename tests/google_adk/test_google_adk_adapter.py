"""Google ADK keeps the adapter contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kvflow_google_adk._adapter import adapter
from tests.adapter_contract import AdapterContract, Driver, FrameworkDriver
from tests.adapter_lifecycle import AdapterLifecycle
from tests.fake_openai import FakeOpenAI
from tests.google_adk import trees


class GoogleADKDriver(FrameworkDriver):
    def build(self, server: FakeOpenAI, names: Sequence[str]) -> Any:
        return trees.runner(trees.line(server, names))

    async def run(self, app: Any) -> list[str]:
        return await trees.run(app)

    async def close(self, app: Any) -> None:
        await app.close()


class TestGoogleADK(AdapterContract, AdapterLifecycle):
    extra = "google-adk"
    module = "google.adk"
    needed_module = "google.adk.workflow"

    @pytest.fixture
    def driver(self) -> Driver:
        return GoogleADKDriver(adapter)
