"""Traffic and judgement of the fault suite; and a short run of it on real servers."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from typer.testing import CliRunner

from kvflow_faults import cli, traffic
from kvflow_faults.instruments import TABLE
from kvflow_faults.results import Results
from kvflow_faults.samples import counted, growth
from kvflow_faults.stage import MEMORY, Stage, growths


def stage(**changes: object) -> Stage:
    made: dict[str, object] = {
        **{"fault": "none", "answered": 10, "wrong": 0, "lost": 0, "outage": 3, "deaths": 0},
        **{"seconds": 1.0, "median_ms": 1.0, "p99_ms": 2.0, "injected": {}, "resident_mib": {}},
        **{"free_host_tokens": [], "counts": {"load_tokens_under_way": 0, "workflows": 2}},
    }
    return Stage(**{**made, **changes})  # type: ignore[arg-type]


def test_the_answer_to_every_prompt_of_a_workflow_is_known() -> None:
    known = set(traffic.prompts())
    assert len(known) == traffic.AGENTS * traffic.TAILS
    calls = list(traffic.calls("w", Random(1)))
    assert len(calls) == traffic.WORKFLOW_AGENTS * traffic.ROUNDS
    assert {call.prompt for call in calls} <= known


def test_workflows_are_those_of_tenants_with_agents_of_their_own() -> None:
    asked: dict[str | None, set[str]] = {}
    for number in range(60):
        for call in traffic.calls(f"w{number}", Random(number)):
            assert call.salt == traffic.salt_of(f"w{number}")
            asked.setdefault(call.salt, set()).add(call.prompt)
    assert asked.keys() == set(traffic.SALTS)
    assert sum(map(len, asked.values())) == len(set().union(*asked.values()))


def test_forecasts_of_the_traffic_come_true() -> None:
    calls = list(traffic.calls("w", Random(2)))
    for now, then in zip(calls, calls[1:], strict=False):
        assert then.hint.agent is not None
        assert now.hint.forecast.steps[then.hint.agent] == 1
        assert now.hint.forecast.seq < then.hint.forecast.seq
    assert set(calls[-1].hint.forecast.steps.values()) == {None}
    assert calls[-1].hint.forecast.seq < traffic.end("w").forecast.seq


def test_only_what_a_kill_has_cost_is_forgiven() -> None:
    assert not list(stage().harms())
    for harm in ("wrong", "lost", "deaths"):
        assert list(stage(**{harm: 1}).harms())
    assert list(stage(counts={"load_tokens_under_way": 5}).harms())
    assert list(stage(counts={"workflows": 3 * 4096 + 1}).harms())


def test_what_a_stock_server_loses_too_is_no_harm_but_a_wrong_answer_is() -> None:
    stock = stage(lost=2, wrong=1, deaths=1)
    assert not list(stage(lost=2).harms(stock))
    for harm in ({"lost": 3}, {"wrong": 1}, {"deaths": 1}):
        assert list(stage(**harm).harms(stock))


def test_stages_are_compared_with_those_of_the_same_fault() -> None:
    control = [stage(fault="kills", lost=1), stage(fault="flushes")]
    lost = [stage(fault="kills", lost=1), stage(fault="flushes", lost=1), stage(fault="soak")]
    results = Results(control, lost)
    assert results.harms() == ["flushes: 1 requests lost; by a stock server 0"]
    document = results.document({})
    assert document["control_total"]["lost"] == 1 and document["total"]["lost"] == 2


def test_only_what_never_falls_back_has_grown() -> None:
    assert growth(range(100)).size == 75 - 49
    assert growth([min(each, 10) for each in range(100)]).size == 0  # full
    assert growth([each % 20 for each in range(100)]).size == 0  # emptied now and then
    assert growth(list(reversed(range(100)))).size == 0


def test_a_counter_begins_again_with_each_life_of_its_server() -> None:
    assert counted([5, 8, 8, 2, 3]) == 3 + 2 + 1
    assert counted([0]) == 0


def test_a_table_may_not_grow_once_those_with_a_limit_are_full() -> None:
    def soaked(**tables: int) -> Stage:
        last = {name.replace("__", "."): size for name, size in tables.items()}
        quarters = [dict.fromkeys(last, 0)] * 3 + [last]
        samples = [{f"{TABLE}{name}": size for name, size in each.items()} for each in quarters]
        return stage(growths=growths(samples))

    assert list(soaked(T__names=5).harms()) == ["T.names grew from 0 to 5 entries"]
    filling = soaked(T__names=5, WorkflowMemory___ended=100)
    assert not list(filling.harms()) and filling.filling == ["WorkflowMemory._ended"]
    (harm,) = soaked(WorkflowMemory___ended=20_000).harms()
    assert harm == f"WorkflowMemory._ended has more than {3 * 4096} entries"


def test_memory_may_not_grow_with_the_messages() -> None:
    def after(messages: int, byte_count: int) -> list[str]:
        samples = [{f"{MEMORY}scheduler": each * byte_count} for each in range(messages)]
        return list(stage(answered=messages, growths=growths(samples)).harms())

    assert not after(1_000_000, 100)
    assert after(1_000_000, 1_000)


def test_a_server_survives_faults_and_its_answers_stay_right(tmp_path: Path) -> None:
    results = tmp_path / "faults.json"
    asked = ["--requests", "120", "--soak-s", "20", "--json", str(results)]
    faults = ["--fault", "kills-in-prefetch", "--fault", "full-host-tier"]
    done = CliRunner().invoke(cli.app, [*asked, *faults])
    assert done.exit_code == 0, done.output
    document = json.loads(results.read_text())
    assert [each["fault"] for each in document["control"]] == faults[1::2]
    killed, full, soak = document["stages"]
    assert killed["injected"] == {"kill in prefetch": 1} and killed["outage"] > 0
    assert killed["answered"] + full["answered"] >= 120
    assert full["injected"]["stranger"] > 0 and full["loaded_ahead_tokens"] > 0
    assert soak["injected"]["hang-up"] > 0 and soak["injected"]["flooding forecast"] > 0
