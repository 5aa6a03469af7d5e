"""Prompts that break their own prefix, found at the right place; all others left alone."""

from __future__ import annotations

import random
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvflow_agents.prefix_changes import agreements
from kvflow_agents.prefix_lint import Finding, PrefixLint, lint

Request = dict[str, Any]


def prose(seed: object, words: int) -> str:
    """Words that no other seed's text shares for long."""
    chance = random.Random(repr(seed))
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join("".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(words))


FIXED = prose("fixed", 100)
STABLE = prose("stable", 100)


def system(text: str) -> Request:
    return {"role": "system", "content": text}


def user(text: str) -> Request:
    return {"role": "user", "content": text}


def tool(name: str) -> Request:
    parameters = {"type": "object", "properties": {name: {"type": "string"}}}
    described = {"name": name, "description": prose(name, 20), "parameters": parameters}
    return {"type": "function", "function": described}


def request(*messages: Request, tools: list[Request] | None = None) -> Request:
    return {"model": "m", "messages": list(messages), **({"tools": tools} if tools else {})}


def found(*requests: Request) -> list[Finding]:
    return lint(("writer", body) for body in requests)


def only(*requests: Request) -> Finding:
    (finding,) = found(*requests)
    return finding


PLANTED: dict[str, tuple[str, list[str]]] = {
    "iso time": ("time", ["2026-11-24T09:11:25Z", "2026-11-24T09:12:03Z"]),
    "iso time with zone": (
        "time",
        ["2026-11-24 09:11:25.123+00:00", "2026-11-24 09:11:25.9+00:00"],
    ),
    "date": ("time", ["2026-11-30", "2026-12-01"]),
    "anagram of a date": ("time", ["2026-01-12", "2026-02-11"]),
    "date in words": ("time", ["November 24, 2026", "November 25, 2026"]),
    "ctime": ("time", ["Tue Nov 24 09:11:25 2026", "Tue Nov 24 09:11:26 2026"]),
    "weekday": ("time", ["Tuesday", "Thursday"]),
    "clock": ("time", ["9:59 AM", "10:00 AM"]),
    "epoch": ("time", ["1795511485", "1795511499"]),
    "uuid": ("id", [str(uuid.UUID(int=7 << 100)), str(uuid.UUID(int=9 << 90))]),
    "hex": ("id", ["8f3a1c2d9b", "8f3a1c77aa"]),
    "random id": ("id", ["run_aX9fQ2", "run_aX7pL0"]),
    "counter": ("number", ["9", "10"]),
    "numbered": ("number", ["step7", "step8"]),
    "fraction": ("number", ["0.731", "0.218"]),
    "name": ("other", ["Alice Smith", "Bob Jones"]),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_value_is_found_where_it_begins(planted: str) -> None:
    kind, (one, other) = PLANTED[planted]
    before = f"{FIXED} : "
    at = len(before) + (4 if planted == "numbered" else 0)
    finding = only(
        *(
            request(system(f"{before}{value} . {STABLE}"), user(prose(value, 3)))
            for value in (one, other)
        )
    )
    broken = finding.example
    assert (broken.kind, broken.place, broken.char) == (kind, "message 0 (system)", at)
    assert broken.before.startswith(one[at - len(before) :])
    assert broken.after.startswith(other[at - len(before) :])
    assert len(STABLE) <= broken.lost_chars <= len(STABLE) + len(other) + 4
    assert (finding.agent, finding.breaks, finding.calls) == ("writer", 1, 2)


@given(
    kind=st.sampled_from(["iso time", "uuid", "counter", "hex"]),
    fixed_words=st.integers(0, 60),
    stable_words=st.integers(80, 160),
    role=st.sampled_from(["system", "user"]),
    earlier=st.integers(0, 3),
    question=st.text(max_size=80),
)
def test_every_planted_change_is_found_at_its_place(
    kind: str, fixed_words: int, stable_words: int, role: str, earlier: int, question: str
) -> None:
    expected, values = PLANTED[kind]
    before = f"{prose(1, fixed_words)} ["
    stable = prose(2, stable_words)
    head = [system(FIXED), *(user(prose(index, 5)) for index in range(earlier))]
    bodies = [
        request(
            *head,
            {"role": role, "content": f"{before}{value}] {stable}"},
            user(f"{index}{question}"),
        )
        for index, value in enumerate(values)
    ]
    broken = only(*bodies).example
    place = f"message {len(head)} ({role})"
    assert (broken.kind, broken.place, broken.char) == (expected, place, len(before))
    assert broken.lost_chars >= len(stable)


@given(
    tails=st.lists(st.text(max_size=200), min_size=2, max_size=6),
    has_tools=st.booleans(),
    is_in_system=st.booleans(),
)
def test_prompts_that_share_a_fixed_part_and_then_differ_are_no_findings(
    tails: list[str], has_tools: bool, is_in_system: bool
) -> None:
    tools = [tool("search"), tool("fetch")] if has_tools and not is_in_system else None
    assert not found(
        *(
            request(system(FIXED + tail), tools=tools)
            if is_in_system
            else request(system(FIXED), user(tail), tools=tools)
            for tail in tails
        )
    )


@given(
    conversations=st.lists(
        st.lists(st.integers(0, 10**6), min_size=1, max_size=5), min_size=1, max_size=4
    )
)
def test_growing_histories_are_no_findings(conversations: list[list[int]]) -> None:
    bodies = []
    for number, turns in enumerate(conversations):
        history = [system(FIXED)]
        for turn, seed in enumerate(turns):
            history = [*history, user(prose((number, turn, seed), 40))]
            bodies.append(request(*history, tools=[tool("search")]))
            history = [*history, {"role": "assistant", "content": prose((number, seed, "a"), 60)}]
    assert not found(*bodies)


def test_ordinary_questions_with_equal_answers_of_a_tool_are_no_finding() -> None:
    result = {"role": "tool", "tool_call_id": "1", "content": STABLE}
    assert not found(
        request(system(FIXED), user("Where is Lisbon?"), result),
        request(system(FIXED), user("Who lives in Porto?"), result),
    )


def test_fresh_ids_of_tool_calls_are_no_finding() -> None:
    def with_id(call_id: str) -> Request:
        function = {"name": "search", "arguments": "{}"}
        call = {"id": call_id, "type": "function", "function": function}
        return request(
            system(FIXED),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call_id, "content": STABLE},
        )

    assert not found(with_id("call_a1b2c3"), with_id("call_d4e5f6"))


@given(order=st.permutations(["search", "fetch", "write", "delete"]))
def test_shuffled_tools_are_found_unless_they_are_in_order(order: list[str]) -> None:
    names = ["search", "fetch", "write", "delete"]
    findings = found(
        *(
            request(system(FIXED), user(FIXED), tools=[tool(name) for name in some])
            for some in (names, order)
        )
    )
    first = next((index for index in range(4) if names[index] != order[index]), None)
    assert [(one.example.kind, one.example.place) for one in findings] == (
        [] if first is None else [("order", f"tool {first}")]
    )
    assert all("sort" in one.example.advice for one in findings)


def test_keys_of_a_tool_in_another_order_are_found() -> None:
    one = tool("search")
    other = {**one, "function": dict(reversed(one["function"].items()))}
    broken = only(*(request(system(FIXED), user(STABLE), tools=[some]) for some in (one, other)))
    assert (broken.example.kind, broken.example.place) == ("order", "tool 0")


def test_keys_of_json_in_a_message_in_another_order_are_found_before_another_question() -> None:
    texts = ['{"user": "ann", "city": "rome"}', '{"city": "rome", "user": "ann"}']
    broken = only(
        *(request(user(f"{FIXED} {text}\n{STABLE} {prose(text, 9)}")) for text in texts)
    ).example
    assert (broken.kind, broken.char) == ("order", len(FIXED) + 3)


def test_a_tool_that_is_missing_breaks_what_follows() -> None:
    tools = [tool("search"), tool("fetch"), tool("write"), tool("delete")]
    some = only(
        *(request(system(FIXED), tools=kept) for kept in (tools, [tools[0], *tools[2:]]))
    ).example
    assert (some.kind, some.place) == ("other", "tool 1")
    none = only(*(request(system(FIXED), user(STABLE), tools=kept) for kept in (tools, None)))
    assert (none.example.place, none.example.char) == ("tool 0", 0)
    assert none.example.lost_chars == len(STABLE)
    assert "tool_choice" in some.advice and some.advice == none.example.advice


def test_a_time_in_a_system_prompt_costs_the_tools_and_the_history_too() -> None:
    history = [user(prose(index, 50)) for index in range(3)]
    bodies = [
        request(system(f"{FIXED} It is {time}."), *history[: 2 + index], tools=[tool("search")])
        for index, time in enumerate(["09:11", "09:12"])
    ]
    lost = only(*bodies).lost_chars
    assert lost > sum(len(message["content"]) for message in history[:2]) + 200


def test_a_history_that_loses_its_oldest_messages_is_found() -> None:
    history = [user(prose(index, 60)) for index in range(5)]
    finding = only(*(request(system(FIXED), *history[start : start + 3]) for start in range(3)))
    assert (finding.example.kind, finding.example.place) == ("cut", "message 1 (user)")
    assert (finding.breaks, finding.calls) == (2, 3)


def test_each_agent_and_place_is_found_once_with_all_it_costs() -> None:
    bodies = [
        (agent, request(system(f"{FIXED} {agent} {hour}:00 {STABLE}"), user(prose(hour, 9))))
        for hour in range(10, 14)
        for agent in ("writer", "critic")
    ]
    findings = lint(bodies)
    assert {one.agent for one in findings} == {"writer", "critic"}
    for one in findings:
        assert (one.breaks, one.calls) == (3, 4)
        assert 3 * len(STABLE) <= one.lost_chars <= 3 * (len(STABLE) + 10)


def test_what_is_lost_is_counted_by_the_tokenizer_that_is_given() -> None:
    seen = PrefixLint(count_tokens=lambda text: len(text.split()))
    seen.see("writer", request(system(f"{FIXED} 1 {STABLE}")))
    broken = seen.see("writer", request(system(f"{FIXED} 2 {STABLE}")))
    assert broken is not None and broken.lost_tokens == len(STABLE.split())


def test_little_that_is_lost_is_no_finding() -> None:
    assert not found(*(request(system(f"{FIXED} {n} {STABLE[:200]}")) for n in (1, 2)))


def test_memory_is_bounded_in_agents_and_characters() -> None:
    seen = PrefixLint(most_agents=2, most_chars=1000)
    for name in "abc":
        seen.see(name, request(system(FIXED)))
    assert len(seen) == 2

    def late(value: int) -> Request:
        return request(system(prose("long", 300)), user(f"{value} {STABLE}"))

    assert seen.see("late", late(1)) is None
    assert seen.see("late", late(2)) is None


@pytest.mark.parametrize(
    "body",
    [None, {}, {"messages": "hello"}, {"messages": ["hello"]}, {"messages": [], "tools": 3}],
)
def test_what_is_no_request_is_refused(body: object) -> None:
    with pytest.raises(ValueError):
        PrefixLint().see("writer", body)


@pytest.mark.parametrize(
    "content",
    [None, 7, [{"type": "text", "text": FIXED}, {"type": "image_url", "image_url": {}}], [None]],
)
def test_contents_of_every_kind_are_read(content: object) -> None:
    body = request({"role": "user", "content": content})
    assert found(body, body) == []


@given(one=st.lists(st.integers(0, 5), max_size=6), other=st.lists(st.integers(0, 5), max_size=6))
def test_what_agrees_is_in_both_texts_and_in_order(one: list[int], other: list[int]) -> None:
    first, second = ("".join(prose(seed, 12) for seed in seeds) for seeds in (one, other))
    end = 0
    for run in agreements(first, second):
        assert run.in_other >= end
        end = run.in_other + run.chars
        assert first[run.in_one :][: run.chars] == second[run.in_other : end]
    assert bool(set(one) & set(other)) == (end > 0)
