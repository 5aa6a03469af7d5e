"""AutoGen keeps the adapter contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat

from kvflow_autogen._adapter import adapter
from tests.adapter_contract import AdapterContract, Driver, FrameworkDriver
from tests.adapter_lifecycle import AdapterLifecycle
from tests.autogen import teams
from tests.fake_openai import FakeOpenAI


class AutoGenDriver(FrameworkDriver):
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
        return super().is_empty() and not adapter.observer._scopes


class TestAutoGen(AdapterContract, AdapterLifecycle):
    extra = "autogen"
    module = "autogen_agentchat"
    needed_module = "autogen_agentchat.teams._group_chat._base_group_chat_manager"

    @pytest.fixture
    def driver(self) -> Driver:
        return AutoGenDriver(adapter)

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
