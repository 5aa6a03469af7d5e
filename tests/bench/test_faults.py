"""Traffic and judgement of the fault suite; and a short run of it on real servers."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from typer.testing import CliRunner

from kvflow_faults import cli, traffic
from kvflow_faults.suite import Stage


def stage(**changes: object) -> Stage:
    made: dict[str, object] = {
        **{"fault": "none", "answered": 10, "wrong": 0, "lost": 0, "outage": 3, "deaths": 0},
        **{"seconds": 1.0, "median_ms": 1.0, "p99_ms": 2.0, "injected": {}, "resident_mib": [1]},
        **{"tables": {"workflows": 2}, "counts": {"load_tokens_under_way": 0}},
    }
    return Stage(**{**made, **changes})  # type: ignore[arg-type]


def test_the_answer_to_every_prompt_of_a_workflow_is_known() -> None:
    known = set(traffic.prompts())
    assert len(known) == traffic.AGENTS * traffic.TAILS
    calls = list(traffic.calls("w", Random(1)))
    assert len(calls) == traffic.WORKFLOW_AGENTS * traffic.ROUNDS
    assert {call.prompt for call in calls} <= known


def test_forecasts_of_the_traffic_come_true() -> None:
    calls = list(traffic.calls("w", Random(2)))
    for now, then in zip(calls, calls[1:], strict=False):
        assert then.hint.agent is not None
        assert now.hint.forecast.steps[then.hint.agent] == 1
        assert now.hint.forecast.seq < then.hint.forecast.seq
    assert set(calls[-1].hint.forecast.steps.values()) == {None}
    assert calls[-1].hint.forecast.seq < traffic.end("w").forecast.seq


def test_only_what_a_kill_has_cost_is_forgiven() -> None:
    assert stage().is_passed
    for harm in ("wrong", "lost", "deaths"):
        assert not stage(**{harm: 1}).is_passed
    assert not stage(counts={"load_tokens_under_way": 5}).is_passed
    assert not stage(tables={"workflows": 5000}).is_passed


def test_a_server_survives_faults_and_its_answers_stay_right(tmp_path: Path) -> None:
    results = tmp_path / "faults.json"
    asked = ["--requests", "120", "--soak-s", "0", "--json", str(results)]
    faults = ["--fault", "kills-in-prefetch", "--fault", "several-at-once"]
    done = CliRunner().invoke(cli.app, [*asked, *faults])
    assert done.exit_code == 0, done.output
    killed, harassed = json.loads(results.read_text())["stages"]
    assert killed["injected"] == {"kill in prefetch": 1} and killed["outage"] > 0
    assert harassed["injected"]["hang-up"] > 0 and harassed["injected"]["flooding forecast"] > 0
    assert killed["answered"] + harassed["answered"] >= 120
