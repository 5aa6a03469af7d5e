"""Whose prompts go on from their last prompt and its answer."""

from __future__ import annotations

from typing import Any

import pytest

from kvflow_agents import Forecast, Hint
from kvflow_agents.conversations import Conversations

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "hello"}
ANSWER = {"role": "assistant", "content": "ok"}
FIRST = [SYSTEM, ASK]


def hint(workflow: str = "w", agent: str = "a", app: str | None = "app") -> Hint:
    return Hint(workflow, Forecast(1), agent=agent, app=app)


def test_a_prompt_that_goes_on_from_the_last_is_known_from_the_second_on() -> None:
    seen = Conversations()
    assert not seen.see(hint(), {"messages": FIRST})
    assert seen.see(hint(), {"messages": [*FIRST, ANSWER, ASK]})
    assert seen.see(hint(), {"messages": [*FIRST, ANSWER, ASK, ANSWER, ASK]})


@pytest.mark.parametrize(
    "messages",
    [
        [SYSTEM, {"role": "user", "content": "another"}],
        [SYSTEM, {"role": "user", "content": "another"}, ANSWER, ASK],
        [*FIRST, ASK],
        [SYSTEM],
    ],
)
def test_one_that_does_not_is_no_conversation(messages: list[Any]) -> None:
    seen = Conversations()
    seen.see(hint(), {"messages": FIRST})
    seen.see(hint(), {"messages": [*FIRST, ANSWER, ASK]})
    seen.see(hint("v"), {"messages": FIRST})
    assert not seen.see(hint("v"), {"messages": messages})


def test_what_was_seen_counts_for_all_runs_of_the_app_and_nobody_else() -> None:
    seen = Conversations()
    seen.see(hint(), {"messages": FIRST})
    seen.see(hint(), {"messages": [*FIRST, ANSWER, ASK]})
    assert seen.see(hint("another"), {"messages": FIRST})
    assert not seen.see(hint("another", agent="b"), {"messages": FIRST})
    assert not seen.see(hint("another", app="other"), {"messages": FIRST})
    assert not seen.see(hint("w", app=None), {"messages": FIRST})


def test_the_same_prompt_again_is_a_retry_and_changes_nothing() -> None:
    seen = Conversations()
    seen.see(hint(), {"messages": FIRST})
    assert seen.see(hint(), {"messages": [*FIRST, ANSWER, ASK]})
    assert seen.see(hint(), {"messages": [*FIRST, ANSWER, ASK]})


@pytest.mark.parametrize("body", [{}, {"messages": []}, {"messages": "hi"}, {"prompt": "hi"}])
def test_what_is_no_chat_says_nothing(body: dict[str, Any]) -> None:
    assert not Conversations().see(hint(), body)


def test_messages_of_any_kind_are_taken() -> None:
    seen = Conversations()
    for messages in ([object()], ["a", 1], [ASK, object(), object()]):
        assert not seen.see(hint(), {"messages": messages})


def test_what_is_remembered_is_bounded() -> None:
    seen = Conversations(most_agents=3)
    for number in range(9):
        for messages in (FIRST, [*FIRST, ANSWER, ASK]):
            seen.see(hint(f"w{number}", app=None), {"messages": messages})
    assert len(seen) == 3
