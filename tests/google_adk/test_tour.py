"""The example of Google ADK runs, and its calls are hinted."""

from __future__ import annotations

from demos import tour
from tests.fake_openai import FakeOpenAI


async def test_the_example_runs(server: FakeOpenAI) -> None:
    assert await tour.plan(server.base_url, "fake", ["Lisbon"]) == ["ok"]
    assert sorted(map(str, server.agents)) == ["editor", "food", "museums", "planner"]
    assert server.requests[0].steps == {"planner": 0, "museums": 1, "food": 1, "editor": 2}
