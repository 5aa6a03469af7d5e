"""The example of CrewAI runs, and its calls are hinted."""

from __future__ import annotations

from demos import gazette
from tests.fake_openai import FakeOpenAI


def test_the_example_runs(server: FakeOpenAI) -> None:
    assert gazette.publish(server.base_url, "fake", ["ferries"]) == ["ok"]
    assert sorted(map(str, server.agents)) == ["editor", "painter", "reporter", "writer"]
    assert server.requests[0].steps == {"reporter": 0, "writer": 1, "painter": 1, "editor": 2}
