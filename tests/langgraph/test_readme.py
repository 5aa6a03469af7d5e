"""The README's LangGraph example, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import kvflow_agents
from tests.fake_openai import FakeOpenAI

README = Path(__file__).parents[2] / "README.md"


def test_the_example_runs_and_each_agents_call_says_who_is_next(server: FakeOpenAI) -> None:
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (example,) = [each for each in examples if "kvflow_langgraph.wrap" in each]
    exec(example.replace("http://localhost:30000/v1", server.base_url), {})
    assert [request.agent for request in server.requests] == ["planner", "writer", "critic"]
    assert [request.steps for request in server.requests] == [
        {"planner": 0, "writer": 1, "critic": 2},
        {"planner": None, "writer": 0, "critic": 1},
        {"planner": None, "writer": None, "critic": 0},
    ]
    assert kvflow_agents.report()["writer"].calls == 1
