from __future__ import annotations

import pytest

from kvflow_agents.errors import ConfigurationError
from kvflow_bench import arms, presets
from kvflow_bench.workloads import Workload

LORA = ("lora-cpu", "lora-h100")


@pytest.mark.parametrize("name", LORA)
def test_active_adapters_press_on_the_slots_and_fit_twice_as_many(name: str) -> None:
    preset = presets.named(name)
    for workload in preset.workloads:
        sizes = workload.parameters
        active = sizes.agents if workload.kind == "cycle" else sizes.workflows * sizes.active
        # Nothing is loaded ahead unless there is a slot that no request in flight needs.
        assert sizes.workflows < preset.slots < active <= 2 * preset.slots
        assert workload.footprint_tokens() <= preset.pool_tokens
        if workload.kind != "cycle":
            assert active == 0.2 * sizes.adapters == 0.2 * sizes.workflows * sizes.agents
    arms.chosen(preset.arms)


@pytest.mark.parametrize(
    "preset", [each for name, each in presets.PRESETS.items() if name not in LORA]
)
def test_every_workload_presses_on_the_pool_and_fits_the_ceiling(preset: presets.Preset) -> None:
    for workload in preset.workloads:
        sizes = workload.parameters
        # What is in flight must fit in any case.
        widest = max(len(front.agents) for flow in workload.workflows() for front in flow.fronts)
        longest = max(
            len(call.prompt)
            for flow in workload.workflows()
            for stage in flow.stages(counted=True)
            for call in stage.calls
        )
        in_flight = sizes.workflows * widest * (longest + sizes.output_tokens)
        assert in_flight < preset.pool_tokens < workload.footprint_tokens(), workload.name
    most = presets.ceiling_tokens(preset, preset.workloads)
    assert all(workload.footprint_tokens() <= most for workload in preset.workloads)


def test_workloads_are_chosen_and_resized() -> None:
    (chosen,) = presets.select(presets.H100, ["concurrent"], {"workflows": 64, "fixed_tokens": 512})
    assert (chosen.name, chosen.kind) == ("concurrent", "cycle")
    assert (chosen.parameters.workflows, chosen.parameters.fixed_tokens) == (64, 512)
    assert presets.select(presets.CPU, [], {}) == presets.CPU.workloads
    with pytest.raises(ConfigurationError, match="no workload 'double'"):
        presets.select(presets.CPU, ["double"], {})
    with pytest.raises(ConfigurationError, match="no preset 'a100'"):
        presets.named("a100")


def test_a_race_has_as_many_counted_calls_as_asked_for() -> None:
    for preset in presets.RACES.values():
        workload = presets.with_requests(preset.workloads[0], 2000)
        assert 2000 <= _counted_calls(workload) < 2100
        assert workload.footprint_tokens() > 2 * preset.pool_tokens


def _counted_calls(workload: Workload) -> int:
    stages = [stage for flow in workload.workflows() for stage in flow.stages(counted=True)]
    return sum(len(stage.calls) for stage in stages)
