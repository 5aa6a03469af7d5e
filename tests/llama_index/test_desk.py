"""The example of LlamaIndex runs, and its calls are hinted."""

from __future__ import annotations

from demos import desk
from tests.fake_openai import FakeOpenAI
from tests.llama_index.workflows import handoff


async def test_the_example_runs(server: FakeOpenAI) -> None:
    server.script("lighthouses", handoff("writer"), handoff("editor"), "They shine.")
    assert await desk.write(server.base_url, "fake", ["lighthouses"]) == ["They shine."]
    assert server.agents == ["reporter", "writer", "editor"]
    assert server.requests[0].steps == {"reporter": 0, "writer": 1, "editor": 2}
