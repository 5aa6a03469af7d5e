"""Made-up traffic is a trace that is read whole, and knows who says nothing of itself."""

from __future__ import annotations

from pathlib import Path

from kvflow_replay.calls import Call, End
from kvflow_replay.reader import Reader
from made_up_trace import main


def test_the_traffic_is_read_as_it_was_made(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    main(file, workload="mixed with chat", calls=200, seed=1, scale=2)
    with file.open("rb") as trace:
        reader = Reader(trace)
        events = list(reader)
    calls = [event for event in events if isinstance(event, Call)]
    assert len(calls) == 200 and not reader.findings.skipped
    assert not reader.findings.unknown_fields
    assert {call.workflow for call in calls} > {None, "client0"}
    assert all((call.agent is None) == (call.workflow is None) for call in calls)
    assert all(call.prompt_tokens == 2 * len(call.blocks) for call in calls)
    ends = [event for event in events if isinstance(event, End)]
    assert ends and all(end.is_resumable for end in ends)
