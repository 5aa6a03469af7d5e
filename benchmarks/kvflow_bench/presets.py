"""Sets of workloads with the pool they are meant for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kvflow_agents.errors import ConfigurationError
from kvflow_bench.workloads import Parameters, Workload


@dataclass(frozen=True)
class Preset:
    """Workloads, and the servers' sizes under which they press on the cache."""

    workloads: tuple[Workload, ...]
    pool_tokens: int
    repeats: int
    ceiling_tokens: int | None = None
    """None: what the workloads take together at most."""
    host_flags: tuple[str, ...] = ()
    link_gb_per_s: float | None = None
    """To what the host link is slowed down; None: it stays as it is."""
    slots: int = 8
    """The device's slots for LoRA adapters, where the workloads have any."""
    arms: tuple[str, ...] = ("lru", "hicache", "kvflow", "kvflow-unhinted", "ceiling")


# Llama-3.1-8B's shape on 80 GB: 10 x 8,192 or 8 x 10 x 2,048 fixed tokens in a pool of 45,000.
H100 = Preset(
    workloads=(
        Workload("single", "cycle", Parameters(fixed_tokens=8192)),
        # The shorter the prompts the more agents, for as much in all.
        Workload("single-1024", "cycle", Parameters(agents=80, fixed_tokens=1024)),
        Workload("single-2048", "cycle", Parameters(agents=40, fixed_tokens=2048)),
        Workload("single-4096", "cycle", Parameters(agents=20, fixed_tokens=4096)),
        Workload("single-128", "cycle", Parameters(fixed_tokens=8192, output_tokens=128)),
        Workload("concurrent", "cycle", Parameters(workflows=8, fixed_tokens=2048)),
        Workload("concurrent-24", "cycle", Parameters(workflows=24, fixed_tokens=512)),
        Workload("concurrent-64", "cycle", Parameters(workflows=64, agents=4, fixed_tokens=512)),
        Workload(
            "concurrent-256",
            "cycle",
            Parameters(
                workflows=8, fixed_tokens=1024, dynamic_tokens=256, output_tokens=256, rounds=2
            ),
        ),
        Workload(
            "peer",
            "peer",
            Parameters(
                workflows=8, agents=3, fixed_tokens=1024, dynamic_tokens=128, output_tokens=64
            ),
        ),
        Workload("branch", "branch", Parameters(shared_tokens=2048, fixed_tokens=4096)),
        Workload(
            "growing",
            "growing",
            Parameters(workflows=4, fixed_tokens=1024, dynamic_tokens=256, rounds=6),
        ),
    ),
    pool_tokens=45_000,
    ceiling_tokens=220_000,
    repeats=3,
    host_flags=("--hicache-size", "24"),
)

# The host link of the paper's A10G, on which loads ahead have most to save.
SLOW_LINK = replace(
    H100,
    workloads=tuple(each for each in H100.workloads if each.name in ("single", "concurrent")),
    link_gb_per_s=2.0,
)

# The random model of `kvflow model tiny`: two minutes of calls on two cores.
CPU = Preset(
    workloads=(
        Workload(
            "single",
            "cycle",
            Parameters(fixed_tokens=600, dynamic_tokens=20, output_tokens=4, rounds=3),
        ),
        Workload(
            "concurrent",
            "cycle",
            Parameters(
                workflows=3,
                agents=5,
                fixed_tokens=400,
                dynamic_tokens=20,
                output_tokens=4,
                rounds=2,
            ),
        ),
        Workload(
            "concurrent-16",
            "cycle",
            Parameters(
                workflows=16,
                agents=3,
                fixed_tokens=150,
                dynamic_tokens=15,
                output_tokens=4,
                rounds=2,
            ),
        ),
        Workload(
            "peer",
            "peer",
            Parameters(
                workflows=2,
                agents=3,
                fixed_tokens=400,
                dynamic_tokens=20,
                output_tokens=4,
                rounds=2,
            ),
        ),
        Workload(
            "branch",
            "branch",
            Parameters(
                agents=5,
                shared_tokens=300,
                fixed_tokens=600,
                dynamic_tokens=20,
                output_tokens=4,
                rounds=3,
            ),
        ),
        Workload(
            "growing",
            "growing",
            Parameters(agents=8, fixed_tokens=300, dynamic_tokens=60, output_tokens=4, rounds=4),
        ),
    ),
    pool_tokens=3_100,
    repeats=2,
    host_flags=("--hicache-ratio", "6"),
)

# A pool in which all KV fits, so that adapters alone decide.
LORA_ARMS = ("lru", "lru-overlap", "kvflow-device", "kvflow-overlap", "ceiling")


def _lora(
    sizes: Parameters, pool_tokens: int, *, slots: int, more: tuple[Workload, ...] = ()
) -> Preset:
    active = sizes.workflows * sizes.active
    cycle = replace(sizes, workflows=1, agents=active, rounds=2 * sizes.rounds)
    return Preset(
        workloads=(
            Workload("lora", "simulation", sizes),
            Workload("lora-active", "active", sizes),
            Workload("lora-cycle", "cycle", cycle),
            *more,
        ),
        pool_tokens=pool_tokens,
        ceiling_tokens=pool_tokens,
        repeats=2,
        slots=slots,
        arms=LORA_ARMS,
    )


# ScaleSim's example: 100 adapters (of rank 64), a fifth of the agents active, here with 16 slots.
_HUNDRED = Parameters(workflows=5, agents=20, active=4, adapters=100, fixed_tokens=512)
LORA_H100 = _lora(
    _HUNDRED,
    pool_tokens=110_000,
    slots=16,
    # An answer that names an action: the shorter it is, the more of a call waits for its adapter.
    more=(Workload("lora-active-8", "active", replace(_HUNDRED, output_tokens=8)),),
)
# A fifth of the adapters is more than the slots, and fits into twice as many.
LORA_CPU = _lora(
    Parameters(
        workflows=2,
        agents=15,
        active=3,
        adapters=30,
        fixed_tokens=100,
        dynamic_tokens=10,
        output_tokens=2,
        rounds=2,
    ),
    pool_tokens=10_000,
    slots=4,
)

PRESETS = {
    "h100": H100,
    "slow-link": SLOW_LINK,
    "cpu": CPU,
    "lora-h100": LORA_H100,
    "lora-cpu": LORA_CPU,
}

# Many agents, short answers: as many loads as possible, and others at work meanwhile.
RACES = {
    "h100": Preset(
        workloads=(
            Workload(
                "race",
                "cycle",
                Parameters(
                    workflows=8,
                    agents=12,
                    fixed_tokens=1024,
                    dynamic_tokens=16,
                    output_tokens=8,
                ),
            ),
        ),
        pool_tokens=45_000,
        repeats=1,
        host_flags=("--hicache-size", "24"),
    ),
    "cpu": Preset(
        workloads=(
            Workload(
                "race",
                "cycle",
                Parameters(
                    workflows=4,
                    agents=8,
                    fixed_tokens=120,
                    dynamic_tokens=8,
                    output_tokens=4,
                ),
            ),
        ),
        pool_tokens=2_000,
        repeats=1,
        host_flags=("--hicache-ratio", "6"),
    ),
}


def named(name: str, presets: Mapping[str, Preset] = PRESETS) -> Preset:
    """The preset of a name. ConfigurationError if there is none."""
    if name not in presets:
        raise ConfigurationError(f"there is no preset {name!r}; there are {', '.join(presets)}")
    return presets[name]


def with_requests(workload: Workload, requests: int) -> Workload:
    """The workload with enough rounds for so many counted calls."""
    sizes = workload.parameters
    rounds = math.ceil(requests / (sizes.workflows * sizes.agents))
    return replace(workload, parameters=replace(sizes, rounds=rounds))


def select(preset: Preset, names: Sequence[str], changes: dict[str, int]) -> tuple[Workload, ...]:
    """The preset's workloads of these names, or all, with some parameters replaced.

    ConfigurationError if there is no such workload, or a parameter is out of range.
    """
    known = {workload.name: workload for workload in preset.workloads}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigurationError(
            f"there is no workload {unknown[0]!r} in this preset; there are {', '.join(known)}"
        )
    chosen: Iterable[Workload] = [known[name] for name in names] or known.values()
    return tuple(
        replace(workload, parameters=replace(workload.parameters, **changes)) for workload in chosen
    )


def ceiling_tokens(preset: Preset, workloads: Iterable[Workload]) -> int:
    """The pool of the ceiling's server."""
    most = max(workload.footprint_tokens() for workload in workloads)
    return most if preset.ceiling_tokens is None else preset.ceiling_tokens
