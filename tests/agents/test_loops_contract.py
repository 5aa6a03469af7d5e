"""Loops written by hand keep the adapter contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import openai
import pytest

import kvflow_agents
from kvflow_agents import loops
from tests.adapter_contract import AdapterContract, Driver
from tests.fake_openai import FakeOpenAI


@dataclass
class Loop:
    base_url: str
    names: Sequence[str]


class LoopsDriver(Driver):
    knows_structure = False

    def __init__(self) -> None:
        self.subscriptions = loops.adapter.subscriptions
        self.failsafes = [loops.failsafe]
        self._base_urls: list[str] | None = None

    def turn_on(self, base_urls: list[str]) -> None:
        self._base_urls = base_urls

    def turn_off(self) -> None:
        self._base_urls = None

    def patched(self) -> list[object]:
        return []

    def build(self, server: FakeOpenAI, names: Sequence[str]) -> Loop:
        return Loop(server.base_url, names)

    async def run(self, app: Loop) -> list[str]:
        if self._base_urls is None:
            return await self._ask_all(app)
        async with kvflow_agents.workflow(base_urls=self._base_urls):
            return await self._ask_all(app)

    async def close(self, app: Loop) -> None:
        pass

    def is_empty(self) -> bool:
        return not loops.adapter._users and not len(loops.adapter.runs)

    async def _ask_all(self, app: Loop) -> list[str]:
        answers = []
        async with openai.AsyncOpenAI(
            base_url=app.base_url, api_key="key", max_retries=0
        ) as client:
            for name in app.names:
                async with kvflow_agents.agent(name):
                    answer = await client.chat.completions.create(
                        model="fake", messages=[{"role": "user", "content": "Go on."}]
                    )
                    answers.append(str(answer.choices[0].message.content))
        return answers


class TestLoops(AdapterContract):
    @pytest.fixture
    def server(self) -> Iterator[FakeOpenAI]:
        with FakeOpenAI() as server:
            yield server
            assert loops.adapter.subscriptions.courier.flush(10)

    @pytest.fixture
    def driver(self, monkeypatch: pytest.MonkeyPatch) -> Driver:
        monkeypatch.setattr(loops.adapter, "_apps", type(loops.adapter._apps)())
        return LoopsDriver()
