"""AutoGen keeps the adapter contract."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat

import kvflow_autogen
from kvflow_autogen import _patches
from kvflow_autogen._adapter import adapter
from tests.adapter_contract import AdapterContract, Driver
from tests.autogen import teams
from tests.fake_openai import FakeOpenAI


class AutoGenDriver(Driver):
    def __init__(self) -> None:
        self.subscriptions = adapter.subscriptions
        self.failsafes = [adapter.failsafe]

    def turn_on(self, base_urls: list[str]) -> None:
        kvflow_autogen.instrument(base_urls=base_urls)

    def turn_off(self) -> None:
        kvflow_autogen.uninstrument()

    def patched(self) -> list[object]:
        seams = [seam for seam, _ in _patches.find(adapter.observer, adapter.failsafe)]
        return [seam.owner.__dict__[seam.name] for seam in seams]

    def build(self, server: FakeOpenAI, names: Sequence[str]) -> Any:
        model = teams.client(server)
        members: list[Any] = [
            AssistantAgent(name, model, system_message="Go on.", description="one of us")
            for name in names
        ]
        return RoundRobinGroupChat(members, max_turns=len(names))

    async def run(self, app: Any) -> list[str]:
        result = await app.run(task="hi")
        return [str(message.content) for message in result.messages]

    async def close(self, app: Any) -> None:
        await app.reset()

    def is_empty(self) -> bool:
        gc.collect()
        return not adapter.observer._scopes and not len(adapter.observer._runs)


class TestAutoGen(AdapterContract):
    @pytest.fixture
    def driver(self) -> Driver:
        return AutoGenDriver()

    async def test_agents_are_named_in_any_script(self, driver: Driver, server: FakeOpenAI) -> None:
        # AutoGen's OpenAI client refuses participants with such names; teams have any.
        driver.turn_on([server.base_url])
        team = driver.build(server, ["x"])
        names = ("équipe", "команда", "チーム")
        for name in names:
            team = RoundRobinGroupChat([team], max_turns=1, name=name)
        # The outermost team is the run itself.
        await driver.run(RoundRobinGroupChat([team], max_turns=1))
        assert server.agents == ["チーム/команда/équipe/RoundRobinGroupChat/x"]
