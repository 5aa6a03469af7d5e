"""The demo's team without a server: who is called how often does not depend on the answers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatResult
from pydantic import Field

from demos import team


class Colleague(GenericFakeChatModel):
    """Says the same to everybody and remembers to whom."""

    asked: list[str] = Field(default_factory=list)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.asked.append(messages[0].text.split("you are the ")[1].split(".")[0])
        self.messages = iter([AIMessage("Perhaps.")])
        return super()._generate(messages, *args, **kwargs)


def test_every_question_makes_the_same_calls() -> None:
    model = Colleague(messages=iter(()))
    result = team.build(model, words=50).invoke({"questions": ["Why?", "How?"]})
    calls = Counter(model.asked)
    assert sum(calls.values()) == 2 * team.calls_per_question(len(team.REVIEWERS), revisions=1)
    assert calls == {
        **dict.fromkeys(("planner", *team.RESEARCHERS, *team.REVIEWERS, "editor"), 2),
        **dict.fromkeys(("writer", "critic"), 4),
    }
    assert len(result["reports"]) == 2


def test_the_researchers_run_before_the_writer() -> None:
    model = Colleague(messages=iter(()))
    team.build(model, words=50).invoke({"questions": ["Why?"]})
    assert set(model.asked[1:4]) == set(team.RESEARCHERS)
    assert model.asked[4:8] == ["writer", "critic", "writer", "critic"]


def test_no_two_prompts_share_more_than_their_client() -> None:
    prompts = [team.handbook(role, "Client 1", 200) for role in team.DUTIES]
    beginnings = {prompt[: len("Client 1: you are the ") + 3] for prompt in prompts}
    assert len(beginnings) == len(team.DUTIES)
    assert all(200 <= len(prompt.split()) < 230 for prompt in prompts)
