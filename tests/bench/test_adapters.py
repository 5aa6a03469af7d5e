"""Adapters of a benchmark: who calls with which, and what servers are told of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvflow_agents.errors import ConfigurationError
from kvflow_bench.adapters import Adapters
from kvflow_bench.arms import SERVERS
from kvflow_bench.client import generate_body
from kvflow_bench.workloads import Parameters, Workflow, Workload

SIZES = Parameters(workflows=2, agents=5, active=2, adapters=10, fixed_tokens=20, rounds=2)


def callers(workflow: Workflow, *, counted: bool) -> list[tuple[str, str | None]]:
    stages = workflow.stages(counted=counted)
    return [(call.agent, call.adapter) for stage in stages for call in stage.calls]


@pytest.mark.parametrize("kind", ["simulation", "active"])
def test_every_agent_of_a_simulation_has_an_adapter_of_its_own(kind: str) -> None:
    flows = Workload("lora", kind, SIZES).workflows()
    warm_up = [call for flow in flows for call in callers(flow, counted=False)]
    assert sorted(warm_up) == [(f"agent{number:03}", f"a{number}") for number in range(10)]
    counted = [call for flow in flows for call in callers(flow, counted=True)]
    assert len(counted) == 2 * SIZES.agents * SIZES.rounds
    assert set(counted) <= set(warm_up)
    if kind == "active":
        assert {adapter for _, adapter in counted} == {"a0", "a1", "a5", "a6"}


def test_fewer_adapters_are_shared_and_without_any_the_base_model_serves() -> None:
    sizes = Parameters(agents=5, adapters=2, fixed_tokens=20, rounds=1)
    (flow,) = Workload("shared", "cycle", sizes).workflows()
    assert [adapter for _, adapter in callers(flow, counted=True)] == ["a0", "a1", "a0", "a1", "a0"]
    (flow,) = Workload("base", "cycle", Parameters(fixed_tokens=20, rounds=1)).workflows()
    assert {adapter for _, adapter in callers(flow, counted=True)} == {None}


def test_a_call_names_its_adapter() -> None:
    assert json.loads(generate_body([1], 2, None, "a3"))["lora_path"] == "a3"
    assert "lora_path" not in json.loads(generate_body([1], 2, None))


def test_a_server_is_told_of_as_many_as_it_can_hold() -> None:
    adapters = Adapters(Path("model"), count=5, slots=2)
    paths = [f"a{number}=model/adapters/{number}" for number in range(5)]
    start = ["--enable-lora", "--max-loras-per-batch", "2"]
    assert adapters.options(SERVERS["lru"]) == [*start, "--lora-paths", *paths]
    assert not adapters.left_out(SERVERS["lru"])
    ahead = ["--enable-lora-overlap-loading", "--max-loaded-loras", "4"]
    for overlapping in (SERVERS["lru-overlap"], SERVERS["kvflow-overlap"]):
        assert adapters.options(overlapping) == [*start, *ahead, "--lora-paths", *paths[:4]]
        assert adapters.left_out(overlapping) == {"a4": Path("model/adapters/4")}
    # The base model takes a slot.
    assert adapters.options(SERVERS["ceiling"])[2] == "6"


def test_adapters_that_are_not_there_are_missed(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="0 is missing: `kvflow model tiny`"):
        Adapters(tmp_path, count=1, slots=1).check()
    Adapters(tmp_path, count=0, slots=1).check()
