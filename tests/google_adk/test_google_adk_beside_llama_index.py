"""Two frameworks in one process, turned on by one switch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import kvflow_agents
from tests.fake_openai import FakeOpenAI, ToolCall
from tests.google_adk import trees
from tests.llama_index import workflows


@pytest.fixture
def switched(server: FakeOpenAI) -> Iterator[FakeOpenAI]:
    found = kvflow_agents.instrument(base_urls=[server.base_url])
    assert {"crewai", "google-adk", "llama-index"} <= {*found.on}
    yield server
    kvflow_agents.uninstrument()


async def test_each_names_its_own_agents(switched: FakeOpenAI) -> None:
    await trees.run(trees.runner(trees.line(switched, ["a", "b"])))
    await workflows.line(switched, ["c", "d"]).run()
    assert switched.agents == ["a", "b", "c", "d"]
    assert len({request.workflow for request in switched.requests}) == 2
    assert switched.requests[2].steps == {"c": 0, "d": 1}


async def test_one_inside_the_other_is_hinted_once(switched: FakeOpenAI) -> None:
    async def consult() -> str:
        """Ask somebody who knows."""
        return str(await workflows.agent(switched, "helper").run(user_msg="why?"))

    boss = trees.agent(switched, "boss", tools=[consult])
    switched.script(trees.mark("boss"), ToolCall("consult"), "done")
    assert await trees.run(trees.runner(boss)) == ["boss: done"]
    # Asked in the order of their names: ADK knows who is at work.
    assert switched.agents == ["boss"] * 3
