"""`kvflow lint` on recordings, as a user runs it, and the warning while an application runs."""

from __future__ import annotations

import json
import logging
import stat
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import openai
import pytest
from typer.testing import CliRunner, Result

from kvflow_agents import App, Call, Carrier, Hint, StepGraph, Workflow
from kvflow_agents.cli import COMMANDS_GROUP
from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import encode_request
from kvflow_agents.live_lint import VARIABLE, LiveLint
from kvflow_agents.prompt_recorder import VARIABLE as RECORD_VARIABLE
from kvflow_agents.prompt_recorder import prompt_recorder
from tests.agents.fake_server import FakeServer

STABLE = "You answer carefully and in short sentences. " * 20


def body(before: str, question: str = "hello", **more: Any) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": f"{before} {STABLE}"},
        {"role": "user", "content": question},
    ]
    return {"model": "m", "messages": messages, **more}


def lint(path: Path, lines: list[object], *options: str, end: str = "") -> Result:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts) + end, encoding="utf-8")
    (command,) = (one for one in entry_points(group=COMMANDS_GROUP) if one.name == "lint")
    return CliRunner().invoke(command.load(), [str(path), *options])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


def findings(result: Result) -> list[dict[str, Any]]:
    document = json.loads(result.stdout)
    assert result.exit_code == (1 if document["findings"] else 0)
    return list(document["findings"])


def test_a_recording_without_a_break_exits_0(path: Path) -> None:
    result = lint(path, [body("Writer.", question, agent="a") for question in "xyz"])
    assert result.exit_code == 0
    assert "3 calls of 1 agents" in result.stdout


def test_a_break_is_shown_in_a_table_and_exits_1(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = lint(path, [body(f"It is 09:0{n}.", agent="team/[writer]") for n in range(3)])
    assert result.exit_code == 1
    for shown in ("team/[writer]", "message 0 (system)", "character 6", "time", "2 of 3"):
        assert shown in result.stdout


def test_json_names_the_place_and_the_cost(path: Path) -> None:
    (one,) = findings(lint(path, [body(f"It is 09:0{n}.", agent="a") for n in (1, 2)], "--json"))
    assert (one["agent"], one["breaks"], one["calls"]) == ("a", 1, 2)
    assert (one["example"]["place"], one["example"]["char"]) == ("message 0 (system)", 6)
    assert one["example"]["before"].startswith("09:01.")
    assert 200 < one["lost_tokens"] < 240


def test_what_costs_little_can_be_left_out(path: Path) -> None:
    calls: list[object] = [body(f"It is 09:0{n}.", agent="a") for n in (1, 2)]
    assert lint(path, calls, "--least-tokens", "1000").exit_code == 0


def test_bad_lines_are_counted_and_skipped_with_a_message(path: Path) -> None:
    bad: list[object] = ["oops", "[1]", {"agent": "a"}, "", "[" * 100_000]
    result = lint(path, [body("1", agent="a"), *bad, body("2", agent="a")], "--json")
    assert len(findings(result)) == 1
    assert json.loads(result.stdout)["skipped_lines"] == 4
    assert "line 2: skipped: " in result.stderr and "line 4: skipped: " in result.stderr


def test_a_truncated_last_line_is_no_error(path: Path) -> None:
    cut = json.dumps(body("é", agent="a"), ensure_ascii=False).encode()
    lines: list[object] = [body("a", agent="a")]
    for length in (1, 60, len(cut) - 1):
        result = lint(path, lines, "--json", end=cut[:length].decode("utf-8", "ignore"))
        assert findings(result) == []
        assert json.loads(result.stdout)["skipped_lines"] == 0
        assert "line 2: cut short" in result.stderr


def test_calls_are_told_apart_by_their_hint(path: Path) -> None:
    def hinted(agent: str, before: str) -> dict[str, Any]:
        hint = Hint("run", Forecast(1, {}), agent=agent, app="0123456789")
        return body(before, custom_params=encode_request(hint))

    calls = [hinted(agent, f"{agent} {n}") for n in (1, 2) for agent in ("writer", "critic")]
    named = {one["agent"] for one in findings(lint(path, [*calls], "--json"))}
    assert named == {"writer of 01234567", "critic of 01234567"}


def test_calls_without_a_name_are_told_apart_by_how_their_prompts_begin(path: Path) -> None:
    calls = [body(f"{who} at 09:0{n}.") for n in (1, 2) for who in ("Writer", "Critic")]
    bare = {"messages": [{"role": "user", "content": "hello"}]}
    found = findings(lint(path, [*calls, bare], "--json"))
    assert sorted(one["agent"][:9] for one in found) == ["m: Critic", "m: Writer"]


@pytest.fixture
def client(server: FakeServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="key") as client:
        yield client


def ask(client: openai.OpenAI, server: FakeServer, befores: list[str]) -> Carrier:
    workflow = Workflow("run", App(StepGraph([])), first_seq=0)
    carrier = Carrier(lambda: Call(workflow, "writer"), [server.base_url])
    carrier.install()
    try:
        for before in befores:
            client.chat.completions.create(**body(before))
    finally:
        carrier.uninstall()
    return carrier


def test_what_an_application_sends_can_be_recorded_and_linted(
    client: openai.OpenAI, server: FakeServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    befores = [f"It is 09:0{n}." for n in range(3)]
    ask(client, server, befores)
    assert not path.exists(), "without being asked for"
    monkeypatch.setenv(RECORD_VARIABLE, str(path))
    ask(client, server, befores)
    recorder = prompt_recorder()
    assert recorder is not None and recorder.file.flush(10) and recorder.file.errors == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "it holds what the user said"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["messages"] for line in lines] == [body(each)["messages"] for each in befores]
    assert lines[0].keys() == {"agent", "model", "messages"}
    (one,) = findings(lint(path, [*lines], "--json"))
    assert one["agent"].startswith("writer of ")
    assert (one["breaks"], one["example"]["kind"]) == (2, "time")


def test_a_recording_without_any_call_exits_2(path: Path) -> None:
    nothing: tuple[list[object], ...] = ([], ["oops"], [{"agent": "a"}])
    for lines in nothing:
        result = lint(path, lines)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "no call could be read" in result.stderr


def test_a_trace_of_hashes_is_told_from_a_recording_of_prompts(path: Path) -> None:
    traces = Path(__file__).parents[2] / "demos" / "traces"
    result = lint(path, [*(traces / "research_team.jsonl").read_text().splitlines()])
    assert result.exit_code == 2
    assert f"{RECORD_VARIABLE}=calls.jsonl" in result.stderr


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "kvflow_agents" and record.levelno == logging.WARNING
    ]


@pytest.fixture
def fresh_lint(monkeypatch: pytest.MonkeyPatch) -> LiveLint:
    lint = LiveLint()
    monkeypatch.setattr("kvflow_agents.live_lint._of_process", lint)
    return lint


@pytest.mark.usefixtures("fresh_lint")
def test_a_live_break_is_logged_once_and_changes_no_request(
    client: openai.OpenAI,
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    befores = [f"It is 09:0{n}." for n in range(4)]
    ask(client, server, befores)
    assert warnings(caplog) == []
    monkeypatch.setenv(VARIABLE, "1")
    ask(client, server, befores)
    (text,) = warnings(caplog)
    assert text.startswith("writer breaks its own prefix in message 0 (system), character 6 (time")
    sent = [{**request.body, "custom_params": None} for request in server.requests]
    assert sent[:4] == sent[4:]


def test_a_failure_of_the_lint_stays_in_it(
    client: openai.OpenAI,
    server: FakeServer,
    fresh_lint: LiveLint,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setattr(fresh_lint, "see", fail)
    carrier = ask(client, server, ["1", "2"])
    assert (carrier.counts.hinted, carrier.failsafe.errors) == (2, 0)
    assert all(request.params["kvflow"]["agent"] == "writer" for request in server.requests)
    assert len(warnings(caplog)) == 1


def test_live_memory_is_bounded() -> None:
    lint = LiveLint()
    for number in range(300):
        lint.see("app", f"agent {number}", body("1"))
    assert len(lint) == 256
