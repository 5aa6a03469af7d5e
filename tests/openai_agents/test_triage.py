"""The example of the OpenAI Agents SDK runs, and its calls are hinted."""

from __future__ import annotations

from demos import triage
from tests.fake_openai import FakeOpenAI, ToolCall


async def test_the_example_runs(server: FakeOpenAI) -> None:
    server.script(
        "lighthouses",
        ToolCall("transfer_to_history"),
        ToolCall("search", {"input": "keepers"}),
        "By electricity.",
    )
    server.script("ferry", ToolCall("transfer_to_travel"), "An hour.")
    questions = ["Why did lighthouses lose their keepers?", "How long is the ferry?"]
    answers = await triage.ask(server.base_url, "fake", questions)
    assert answers == ["By electricity.", "An hour."]
    agents = ["triage", "history", "history/archive", "history", "triage", "travel"]
    assert server.agents == agents
    assert len({request.workflow for request in server.requests}) == 1
