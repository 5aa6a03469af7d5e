"""The example of Agent Framework runs, and its calls are hinted before its first run."""

from __future__ import annotations

from demos import review
from tests.fake_openai import FakeOpenAI


async def test_the_example_runs(server: FakeOpenAI) -> None:
    server.delay_s = 0.05
    server.script("You are the editor", "It was electricity.")
    outputs = await review.ask(server.base_url, "fake", "Why did lighthouses lose their keepers?")
    assert "It was electricity." in outputs[-1]
    assert [str(agent) for agent in server.agents[::3]] == ["author", "editor"]
    assert sorted(map(str, server.agents[1:3])) == ["critic", "reader"]
    expected = {"author": 0, "critic": 1, "reader": 1, "remarks": 2, "editor": 3}
    assert server.requests[0].steps == expected
