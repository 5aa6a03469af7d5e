"""Traces of both formats, and whatever else a file may hold."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvflow_replay.reader as reader_module
from kvflow_replay.calls import Call, End, Event
from kvflow_replay.findings import Findings
from kvflow_replay.reader import Reader


def read(*lines: object, end: str = "") -> tuple[list[Event], Findings]:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    reader = Reader(io.BytesIO(("".join(f"{text}\n" for text in texts) + end).encode()))
    return list(reader), reader.findings


def ours(at_ms: float = 0, hash_ids: object = None, **more: Any) -> dict[str, Any]:
    ids = [1, 2, 3] if hash_ids is None else hash_ids
    call = {"v": 1, "at_ms": at_ms, "workflow": "w", "agent": "a", "app": "x"}
    return {**call, "prompt_tokens": 40, "hash_ids": ids, "block_tokens": 16, **more}


def mooncake(timestamp: object = 0, **more: Any) -> dict[str, Any]:
    call = {"timestamp": timestamp, "input_length": 1100, "output_length": 9, "hash_ids": [1, 2, 3]}
    return {**call, **more}


def the_call(event: Event) -> Call:
    assert isinstance(event, Call)
    return event


def test_a_line_of_ours() -> None:
    events, findings = read(ours(1500, output_tokens=7, latency_ms=250, is_estimated=True))
    call = the_call(events[0])
    assert (call.at_s, call.prompt_tokens, call.output_tokens, call.latency_s) == (1.5, 40, 7, 0.25)
    assert (call.workflow, call.agent, call.app, len(call.blocks)) == ("w", "a", "x", 3)
    assert (findings.calls, findings.block_tokens, findings.estimated_calls) == (1, 16, 1)
    assert not findings.skipped and not findings.mended


def test_a_workflow_ends() -> None:
    end = {"v": 1, "kind": "end", "at_ms": 9000, "workflow": "w"}
    events, findings = read(ours(), end, {**end, "kind": "pause"})
    assert events[1:] == [End(9.0, "w"), End(9.0, "w", is_resumable=True)]
    assert findings.calls == 1


def test_a_line_of_mooncake_and_its_aliases() -> None:
    alias = {"created_time": 2, "input_tokens": 1100, "output_tokens": 9, "hash_ids": [1, 2, 3]}
    events, findings = read(mooncake(2), alias)
    assert events[0] == events[1]
    assert the_call(events[0]).workflow is None
    assert findings.block_tokens == 512


def test_a_session_goes_on_after_a_delay() -> None:
    first = mooncake(1000, session_id="s")
    then = {"input_length": 600, "output_length": 1, "session_id": "s", "delay_ms": 500}
    events, findings = read(first, then, {**then, "session_id": "t"})
    assert [event.at_s for event in events] == [1.0, 1.5]
    assert findings.skipped == {"a delay after no call": 1}


def test_a_delay_counts_from_the_answer_before() -> None:
    first = ours(1000, workflow="s", latency_ms=2000, block_tokens=512)
    then = {"input_length": 600, "output_length": 1, "session_id": "s", "delay": 500}
    events, _ = read(first, then, then)
    calls = [the_call(event) for event in events]
    assert [call.at_s for call in calls] == [1.0, 3.5, 4.0]
    assert [call.delay_s for call in calls] == [None, 0.5, 0.5]


def test_equal_hashes_are_equal_blocks_only_behind_equal_ones() -> None:
    events, _ = read(ours(0, [1, 2, 3]), ours(0, [1, 2, 4]), ours(0, [9, 2, 3]))
    one, other, third = (the_call(event).blocks for event in events)
    assert one[:2] == other[:2] and one[2] != other[2]
    assert not set(one) & set(third)


def test_missing_hashes_are_new_blocks_and_too_many_are_cut() -> None:
    events, findings = read(ours(0, [1]), ours(0, [1]), ours(0, [1, 2, 3, 4]))
    one, other, cut = (the_call(event).blocks for event in events)
    assert one[0] == other[0] and not set(one[1:]) & set(other[1:])
    assert len(cut) == 3
    assert sorted(findings.mended.values()) == [1, 2]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{oops}", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "not an object"),
        ("", "an empty line"),
        ({"hello": 1}, "neither at_ms nor input_length"),
        (ours(v=2), "another version"),
        (ours(kind="tool"), "another kind"),
        ({"v": 1, "kind": "end", "at_ms": 0}, "an end without a workflow"),
        (ours(-1), "bad at_ms"),
        (ours(float("nan")), "bad at_ms"),
        (ours(True), "bad at_ms"),
        (ours(prompt_tokens=0), "bad prompt_tokens"),
        (ours(prompt_tokens=10**300), "bad prompt_tokens"),
        (ours(prompt_tokens=10**7, block_tokens=1), "too many blocks"),
        (ours(output_tokens=-1), "bad output_tokens"),
        (ours(block_tokens=0), "bad block_tokens"),
        (ours(hash_ids=[1, -2]), "bad hash_ids"),
        (ours(hash_ids=[1, "2"]), "bad hash_ids"),
        (ours(hash_ids={}), "bad hash_ids"),
        (ours(agent=["a"]), "bad agent"),
        (ours(workflow="w" * 1000), "bad workflow"),
        (ours(block_tokens=32), "another block size"),
        (mooncake(None), "no time"),
        (mooncake("0"), "bad timestamp"),
    ],
)
def test_what_is_no_call_is_counted_and_the_rest_is_read(line: object, reason: str) -> None:
    events, findings = read(ours(), line, ours())
    assert len(events) == 2 and events[0] == events[1]
    assert findings.skipped == {reason: 1}
    assert findings.examples[0].startswith(f"line 2: {reason}")


def test_a_last_line_cut_short() -> None:
    events, findings = read(ours(), end=json.dumps(ours())[:-5])
    assert len(events) == 1
    assert findings.skipped == {"cut short": 1}


def test_a_last_line_without_its_end_is_a_call() -> None:
    events, findings = read(ours(), end=json.dumps(ours()))
    assert len(events) == 2 and not findings.skipped


def test_an_empty_file_holds_no_call() -> None:
    assert read() == ([], Findings())


def test_repeated_calls_count_once_and_equal_calls_each() -> None:
    events, findings = read(ours(id="1"), ours(id="1"), ours(), ours())
    assert len(events) == 3
    assert findings.skipped == {"a repeated call": 1}


def test_clocks_that_go_back_and_gaps_are_noted() -> None:
    events, findings = read(ours(5000), ours(1000), ours(10**7))
    assert len(events) == 3
    assert sorted(findings.mended.values()) == [1, 1]
    assert findings.longest_gap_s == 9999.0


def test_a_call_written_when_it_ends_is_no_clock_that_goes_back() -> None:
    _, findings = read(ours(1000, latency_ms=10), ours(0, latency_ms=2000))
    assert not findings.mended


def test_a_line_over_the_limit_is_skipped_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "MAX_LINE_BYTES", 400)
    long = json.dumps(ours(hash_ids=[1] * 1000))
    events, findings = read(ours(), long, ours(), end=long[:900])
    assert len(events) == 2
    assert findings.skipped == {"too long": 2}
    assert findings.lines == 4


def test_unknown_fields_are_named() -> None:
    events, findings = read(ours(temperature=1), mooncake(text=""))
    assert findings.unknown_fields == {"temperature": 1, "text": 1}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
names = st.sampled_from([*ours(), *mooncake(), "delay", "session_id", "kind", "latency_ms", "id"])


@given(
    st.lists(
        st.binary(max_size=30)
        | st.dictionaries(names | st.text(max_size=3), values).map(
            lambda line: json.dumps(line).encode()
        )
        | st.dictionaries(names, values).map(lambda line: json.dumps({**ours(), **line}).encode()),
        max_size=8,
    )
)
def test_every_line_of_any_file_is_accounted_for(lines: list[bytes]) -> None:
    reader = Reader(io.BytesIO(b"\n".join(lines)))
    events = list(reader)
    findings = reader.findings
    assert len(events) + findings.skipped.total() == findings.lines
    for event in events:
        if isinstance(event, Call):
            blocks = -(-event.prompt_tokens // (findings.block_tokens or 0))
            assert len(event.blocks) == blocks > 0
