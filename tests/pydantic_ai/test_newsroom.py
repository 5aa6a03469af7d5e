"""The example of Pydantic AI runs, and its calls are hinted."""

from __future__ import annotations

from demos import newsroom
from tests.adapter_contract import assert_foreseen
from tests.fake_openai import FakeOpenAI, ToolCall


async def test_the_example_runs(server: FakeOpenAI) -> None:
    server.delay_s = 0.05
    for topic in ("lighthouse", "ferry"):
        server.script(topic, ToolCall("search", {"question": "when?"}), "a report")
    reports = await newsroom.write(server.base_url, "fake", ["The lighthouse.", "The ferry."])
    assert reports == ["ok", "ok"]
    first, second = server.requests[:6], server.requests[6:]
    agents = ["reporter", "reporter/archive", "reporter", "editor", "fact checker", "reader"]
    for requests in (first, second):
        assert sorted(str(request.agent) for request in requests) == sorted(agents)
        assert len({request.workflow for request in requests}) == 1
    # What of the second runs at once is known by the first.
    assert_foreseen(second[:2])
    assert_foreseen(second[2:4])
    assert second[-1].agent == "editor" and second[-2].steps["editor"] == 1
