"""What is compared: servers, and what the workload tells them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from kvflow_agents.errors import ConfigurationError
from kvflow_agents.forecast import Steps


class Hints(StrEnum):
    """What the calls of an arm say of the workflow's future."""

    NONE = "none"
    EXACT = "exact"
    REVERSED = "reversed"
    """Whoever is needed next is said to be needed last."""


@dataclass(frozen=True, slots=True)
class ServerKind:
    """A server configuration, in options of `kvflow serve`."""

    name: str
    is_stock: bool
    has_host_tier: bool
    fits_everything: bool = False
    overlaps_loras: bool = False
    """Whether LoRA adapters are loaded beside the server's work, where there are any."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the plugin."""

    def options(self, config: Mapping[str, Any]) -> list[str]:
        """The options of `kvflow serve` that make it; `config` is what all plugins share."""
        options = ["--host-tier"] if self.has_host_tier else []
        if self.is_stock:
            return ["--stock", *options]
        settings = {**config, **self.config}
        return [*options, *(["--kvflow-config", json.dumps(settings)] if settings else [])]


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of the comparison; arms that name the same server share it."""

    name: str
    server: str
    hints: Hints


SERVERS = {
    kind.name: kind
    for kind in (
        ServerKind("lru", is_stock=True, has_host_tier=False),
        ServerKind("lru-overlap", is_stock=True, has_host_tier=False, overlaps_loras=True),
        ServerKind("hicache", is_stock=True, has_host_tier=True),
        ServerKind("kvflow", is_stock=False, has_host_tier=True),
        ServerKind(
            "kvflow-nogather", is_stock=False, has_host_tier=True, config={"gathers": False}
        ),
        ServerKind("kvflow-device", is_stock=False, has_host_tier=False),
        ServerKind("kvflow-overlap", is_stock=False, has_host_tier=False, overlaps_loras=True),
        ServerKind(
            "kvflow-noprefetch",
            is_stock=False,
            has_host_tier=True,
            config={"prefetch_steps": None},
        ),
        ServerKind("ceiling", is_stock=True, has_host_tier=False, fits_everything=True),
    )
}

ARMS = {
    arm.name: arm
    for arm in (
        Arm("lru", "lru", Hints.NONE),
        Arm("lru-overlap", "lru-overlap", Hints.NONE),
        Arm("hicache", "hicache", Hints.NONE),
        Arm("kvflow", "kvflow", Hints.EXACT),
        Arm("kvflow-unhinted", "kvflow", Hints.NONE),
        Arm("kvflow-wrong", "kvflow", Hints.REVERSED),
        Arm("kvflow-noprefetch", "kvflow-noprefetch", Hints.EXACT),
        Arm("kvflow-nogather", "kvflow-nogather", Hints.EXACT),
        Arm("kvflow-device", "kvflow-device", Hints.EXACT),
        Arm("kvflow-overlap", "kvflow-overlap", Hints.EXACT),
        Arm("ceiling", "ceiling", Hints.NONE),
    )
}


def chosen(names: Sequence[str]) -> list[Arm]:
    """The arms of these names. ConfigurationError if there is no such arm."""
    for name in names:
        if name not in ARMS:
            raise ConfigurationError(f"there is no arm {name!r}; there are {', '.join(ARMS)}")
    return [ARMS[name] for name in dict.fromkeys(names)]


def servers_of(arms: Sequence[Arm]) -> list[ServerKind]:
    """The servers that some arms need, each once."""
    return [SERVERS[name] for name in dict.fromkeys(arm.server for arm in arms)]


def in_turn(arms: Sequence[Arm], repeat: int) -> list[Arm]:
    """The arms as one repeat runs them: forwards, then backwards, so that drift cancels out."""
    return list(arms) if repeat % 2 == 0 else list(reversed(arms))


def told(hints: Hints, steps: Steps) -> Steps | None:
    """What an arm says where an adapter would say `steps`; None: nothing."""
    if hints is Hints.NONE:
        return None
    if hints is Hints.EXACT:
        return steps
    known = [count for count in steps.values() if count is not None]
    most = max(known, default=0)
    return {agent: None if count is None else most - count for agent, count in steps.items()}
