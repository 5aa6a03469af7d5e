"""Recording the calls of an application, on the real OpenAI SDK against a server here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest

import kvflow_agents
from kvflow_agents import loops, recorder
from kvflow_agents.recorder import VARIABLE, Recorder
from kvflow_agents.trace_file import TraceFile
from kvflow_agents.trace_hashes import BLOCK_CHARS, Salt
from kvflow_replay.calls import Call, End, Event
from kvflow_replay.reader import Reader
from tests.fake_openai import FakeOpenAI

SECRET = "the launch code is 0000"
SYSTEM = "You answer carefully. " * 40


@pytest.fixture
def model() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as model:
        model.prompt_tokens, model.cached_tokens = 100, 80
        yield model
        # What tells the server of ends travels in the background.
        assert loops.adapter.subscriptions.courier.flush(10)


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "trace.jsonl"
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def messages(question: str = SECRET) -> Any:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def ask(model: FakeOpenAI, how: str = "plain", *, resumable: bool = False) -> None:
    """Two agents in turn, in a workflow that ends."""
    with (
        openai.OpenAI(base_url=model.base_url, api_key="key") as client,
        kvflow_agents.workflow(
            "ticket-7", base_urls=[model.base_url], app="shop", resumable=resumable
        ),
    ):
        for agent in ("planner", "writer"):
            with kvflow_agents.agent(agent):
                chat = client.chat.completions
                if how == "raw":
                    chat.with_raw_response.create(model="m", messages=messages()).parse()
                elif how == "stream":
                    for _ in chat.create(model="m", messages=messages(), stream=True):
                        pass
                else:
                    chat.create(model="m", messages=messages())


def flushed(path: Path) -> list[dict[str, Any]]:
    of_path = recorder.call_recorder()
    assert of_path is not None and of_path.file.flush(10) and of_path.file.errors == 0
    return [json.loads(line) for line in path.read_text().splitlines()]


def read(path: Path) -> list[Event]:
    with path.open("rb") as file:
        reader = Reader(file)
        events = list(reader)
    findings = reader.findings
    assert not findings.skipped and not findings.mended and not findings.unknown_fields
    return events


@pytest.mark.parametrize("how", ["plain", "raw", "stream"])
def test_calls_are_recorded_with_agents_and_times_and_read_again(
    model: FakeOpenAI, trace: Path, how: str
) -> None:
    ask(model, how)
    lines = flushed(trace)
    calls = lines[:2]
    assert [line["agent"] for line in calls] == ["planner", "writer"]
    assert all(line["is_estimated"] and line["v"] == 1 for line in calls)
    assert all(line["output_tokens"] == 1 for line in calls)
    assert calls[0]["usage"] == {"prompt_tokens": 100, "cached_tokens": 80, "output_tokens": 1}
    assert len(calls[0]["hash_ids"]) == -(-calls[0]["prompt_tokens"] // calls[0]["block_tokens"])
    assert calls[0]["hash_ids"] == calls[1]["hash_ids"]
    assert lines[2]["kind"] == "end"
    one, other, end = read(trace)
    assert isinstance(one, Call) and isinstance(other, Call) and isinstance(end, End)
    assert one.blocks == other.blocks and one.at_s <= other.at_s <= end.at_s
    assert one.workflow == end.workflow


def test_a_workflow_that_may_go_on_pauses(model: FakeOpenAI, trace: Path) -> None:
    ask(model, resumable=True)
    flushed(trace)
    pause = read(trace)[-1]
    assert isinstance(pause, End) and pause.is_resumable


def test_no_text_and_no_name_of_a_workflow_is_in_a_trace(model: FakeOpenAI, trace: Path) -> None:
    ask(model)
    flushed(trace)
    text = trace.read_text()
    assert not any(word in text for word in (*SECRET.split()[:3], "carefully", "ticket-7", "shop"))
    assert trace.stat().st_mode & 0o077 == 0


def test_equal_beginnings_have_equal_hashes_only_under_one_salt() -> None:
    salt, other = Salt.of("salt"), Salt.of(None)
    one, two = SYSTEM + "one", SYSTEM + "two"
    same = len(SYSTEM) // BLOCK_CHARS
    assert salt.blocks(one)[:same] == salt.blocks(two)[:same]
    assert salt.blocks(one)[same:] != salt.blocks(two)[same:]
    assert not set(salt.blocks(one)) & set(other.blocks(one))
    repeated = salt.blocks("x" * 3 * BLOCK_CHARS)
    assert len(set(repeated)) == 3  # each stands for all before it
    assert salt.blocks("\ud800") == Salt.of("salt").blocks("\ud800")


def test_a_retried_call_is_one_line_and_a_failed_one_none(model: FakeOpenAI, trace: Path) -> None:
    model.is_strict = True  # the planner's call is made twice, and then hints no more
    ask(model)
    assert [line["agent"] for line in flushed(trace) if "agent" in line] == ["planner"]
    before = len(flushed(trace))
    # The end of the workflow is on its way to the server: its connection would be cut off.
    assert loops.adapter.subscriptions.courier.flush(10)
    model.stop()
    with pytest.raises(openai.APIConnectionError):
        ask(model)
    assert sum("agent" in line for line in flushed(trace)[before:]) == 0


def test_without_the_variable_nothing_is_recorded(
    model: FakeOpenAI, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    ask(model)
    assert not trace.exists()


def test_a_file_that_cannot_be_written_costs_the_application_nothing(
    model: FakeOpenAI, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(trace / "no" / "such" / "folder"))
    ask(model)
    of_path = recorder.call_recorder()
    assert of_path is not None and of_path.file.flush(10)
    assert of_path.file.errors == 3 and of_path.file.written == 0
    assert len(model.requests) == 2


def test_a_failure_of_the_recorder_stays_in_it(
    model: FakeOpenAI, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(Recorder, "begin", fail)
    ask(model)
    assert [request.agent for request in model.requests] == ["planner", "writer"]


class Line:
    """A line whose writing waits until it may."""

    is_complete = True

    def __init__(self, may_go: threading.Event | None = None) -> None:
        self._may_go = may_go

    def values(self) -> Mapping[str, Any]:
        if self._may_go is not None:
            self._may_go.wait(10)
        return {"a": 1}


def test_a_full_queue_drops_lines_and_never_blocks(tmp_path: Path) -> None:
    may_go = threading.Event()
    file = TraceFile(tmp_path / "trace.jsonl", most_waiting=4)
    for _ in range(20):
        file.put(Line(may_go))
    assert file.dropped >= 15
    may_go.set()
    while not file.flush(10):  # as long as the queue is full
        pass
    assert file.written + file.dropped == 20
    assert len((tmp_path / "trace.jsonl").read_text().splitlines()) == file.written


def test_a_line_cut_short_by_a_crash_does_not_take_the_next_with_it(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"v": 1, "at_')
    file = TraceFile(path)
    file.put(Line())
    assert file.flush(10)
    assert path.read_text() == '{"v": 1, "at_\n{"a":1}\n'


APP = """
import sys, openai, kvflow_agents
client = openai.OpenAI(base_url=sys.argv[1], api_key="key")
with kvflow_agents.workflow(base_urls=[sys.argv[1]]), kvflow_agents.agent("only"):
    client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
sys.exit(3)
"""


def record(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from kvflow_agents.record import app; app()"
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )


def test_the_command_records_what_it_runs_and_exits_as_it_does(
    model: FakeOpenAI, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    command = [sys.executable, "-c", APP, model.base_url]
    done = record("--to", str(path), "--", *command)
    assert done.returncode == 3, done.stderr
    assert f"bytes added to {path}" in done.stderr
    call, end = read(path)
    assert isinstance(call, Call) and call.agent == "only" and isinstance(end, End)
    again = record("--to", str(path), "--", *command)
    assert again.returncode == 3
    assert len(read(path)) == 4


def test_the_command_says_when_there_was_nothing_to_record_or_to_run(tmp_path: Path) -> None:
    path = str(tmp_path / "trace.jsonl")
    done = record("--to", path, "--", sys.executable, "-c", "")
    assert done.returncode == 0 and "nothing was recorded" in done.stderr
    missing = record("--to", path, "--", "/no/such/program")
    assert missing.returncode == 127 and "Traceback" not in missing.stderr
