"""The plot of reports, from a report and from what a demo writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demos.plot_report import draw, hit_rates, main, read_runs
from kvflow_agents import Forecast, Hint
from kvflow_agents.call_records import CallRecords
from kvflow_agents.reports import report
from kvflow_agents.servers import Server

PNG = b"\x89PNG"


def report_json(cached_tokens: int | None) -> str:
    records = CallRecords()
    for seq, agent in enumerate(("planner", "writer", "planner")):
        hint = Hint("run", Forecast(seq, {}), agent)
        call = records.begin(hint, Server("http://server"), 0.0)
        call.use(100, cached_tokens)
        call.end()
    return report(records=records).to_json()


def test_reports_are_plotted_side_by_side(tmp_path: Path) -> None:
    for name, cached in (("stock", 0), ("kvflow", 80)):
        (tmp_path / f"{name}.json").write_text(report_json(cached))
    picture = tmp_path / "picture.png"
    main([f"LRU={tmp_path / 'stock.json'}", str(tmp_path / "kvflow.json")], picture)
    assert picture.read_bytes().startswith(PNG)


def test_a_report_gives_each_agents_hit_rate_in_order(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(report_json(80))
    runs = read_runs(str(tmp_path / "r.json"))
    times_s, rates = hit_rates(runs["r"]["planner"])
    assert rates == [0.8, 0.8]
    assert times_s == sorted(times_s)


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(report_json(None))
    runs = read_runs(f"x={tmp_path / 'r.json'}")
    assert hit_rates(runs["x"]["planner"]) == ([], [])
    draw(runs, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(PNG)


def test_a_demos_document_gives_the_runs_of_its_first_workload(tmp_path: Path) -> None:
    usages = [{"when_s": 1.0, "cached_tokens": 5, "prompt_tokens": 10}]

    def run(workload: str, policy: str, host_tier: bool) -> dict[str, object]:
        agents = {workload: {"usages": usages}}
        return {"workload": workload, "policy": policy, "host_tier": host_tier, "agents": agents}

    runs = [run("team", "stock", False), run("team", "kvflow", False)]
    runs += [run("clients", "stock", False), run("team", "kvflow", True)]
    (tmp_path / "demo.json").write_text(json.dumps({"runs": runs}))
    found = read_runs(str(tmp_path / "demo.json"))
    assert found == {"stock": {"team": usages}, "kvflow": {"team": usages}}


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="neither a report"):
        read_runs(str(tmp_path / "other.json"))
