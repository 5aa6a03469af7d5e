"""Google ADK keeps the adapter contract."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest

import kvflow_google_adk
from kvflow_google_adk import _patches
from kvflow_google_adk._adapter import adapter
from tests.adapter_contract import AdapterContract, Driver
from tests.fake_openai import FakeOpenAI
from tests.google_adk import trees


class GoogleADKDriver(Driver):
    def __init__(self) -> None:
        self.subscriptions = adapter.subscriptions
        self.failsafes = [adapter.failsafe]

    def turn_on(self, base_urls: list[str]) -> None:
        kvflow_google_adk.instrument(base_urls=base_urls)

    def turn_off(self) -> None:
        kvflow_google_adk.uninstrument()

    def patched(self) -> list[object]:
        seams = [seam for seam, _ in _patches.find(adapter.observer, adapter.failsafe)]
        return [seam.owner.__dict__[seam.name] for seam in seams]

    def build(self, server: FakeOpenAI, names: Sequence[str]) -> Any:
        return trees.runner(trees.line(server, names))

    async def run(self, app: Any) -> list[str]:
        return await trees.run(app)

    async def close(self, app: Any) -> None:
        await app.close()

    def is_empty(self) -> bool:
        gc.collect()
        return not [run for run in adapter.observer._runs._live.values()]


class TestGoogleADK(AdapterContract):
    @pytest.fixture
    def driver(self) -> Driver:
        return GoogleADKDriver()
