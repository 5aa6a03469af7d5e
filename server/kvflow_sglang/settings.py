"""The plugin's settings, from one environment variable."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, fields
from typing import Literal, get_args

from kvflow_agents.errors import ConfigurationError
from kvflow_agents.reuse import Order

VARIABLE = "KVFLOW_CONFIG"

TenantBy = Literal["salt", "key", "header"]
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class Settings:
    """How much influence hints have. ConfigurationError at construction if out of range."""

    order: Order = "time"
    """By what expected prefixes are ordered: by when they are needed, which also weighs them
    against other traffic, or by steps-to-execution alone, as in KVFlow."""
    expected_share: float = 0.75
    """The share of each tier's pool that expected prefixes hold before they compete by recency, and
    of LoRA slots expected adapters."""
    lifetime_pools: float = 4.0
    """A forecast counts until this many times the device pool has been evicted since."""
    infer: bool = True
    """Whether forecasts are inferred for requests without a hint."""
    prefetch_steps: int | None = 1
    """Agents that run in so many steps are loaded back ahead of their call, and one step more
    while loads come late; null disables this."""
    prefetch_agents: int = 4
    """Of one workflow's agents, so many of the nearest: the ways a branch may go."""
    prefetch_tokens: int = 8192
    """The largest piece loaded ahead at once: what a more urgent load may find on the link."""
    kv: bool = True
    """Whether KV is evicted and loaded by forecast; LoRA adapters may be all the same."""
    lora: bool = True
    """Whether LoRA adapters are evicted by forecast, and loaded ahead where SGLang loads them
    beside its computation (`--enable-lora-overlap-loading`)."""
    lora_prefetch_steps: int | None = 1
    """Adapters of agents that run in so many steps are loaded ahead of their call; null disables
    this."""
    tenant_by: TenantBy = "salt"
    """What tells tenants apart: the `cache_salt` and `extra_key` of their requests, their API key
    (for a proxy that has checked it), or a header that a proxy sets (docs/security.md)."""
    tenant_header: str | None = None
    """That header, and only with `"tenant_by": "header"`: clients must not be able to set it."""
    most_tenants: int = 64
    """How many tenants are remembered at once, not counting anonymous traffic."""
    tenant_workflows: int = 1024
    """Of one tenant; beyond them the one that was silent longest is forgotten, as below."""
    tenant_agents: int = 8192
    """Of one tenant, whose prefix is remembered."""
    tenant_prompt_tokens: int = 1_000_000
    """Of all prompts remembered of one tenant, at 8 bytes each."""
    tenant_prefetch_tokens: int = 32_768
    """Where there are several tenants, so much is loaded ahead for one and not read by it yet."""
    common_workflows: int = 4096
    """The same of those whom nothing tells apart, as one: of everybody, where there are no salts,
    keys or headers that do."""
    common_agents: int = 32_768
    """Of theirs, whose prefix is remembered."""
    common_prompt_tokens: int = 8_000_000
    """Of all prompts remembered of theirs."""
    common_prefetch_tokens: int | None = None
    """So much is loaded ahead for them and not read yet; None: as for a tenant, where there are
    any, and else without a bound."""
    least_priority: int | None = None
    """No request has a lower priority, whoever says so: a request's own `priority`, or the form of
    another project. Higher is more important, whatever the order of the server; None: no bound."""
    most_priority: int | None = None
    """No request has a higher one."""
    hash_names: bool = False
    """Whether the names of workflows, apps and agents are hashed at the door."""
    waits_for_loads: bool = False
    """Whether a request that needs a load has it started first and lets others run until it is
    done; where it has not, only loads that were started ahead are waited for."""

    gathers: bool = True
    """Whether requests on an idle device wait some milliseconds for those of workflows that run in
    step with theirs, to share a prefill (`kvflow_agents.gathering`)."""

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            is_integer = isinstance(value, int) and not isinstance(value, bool)
            is_number = is_integer or (isinstance(low, float) and isinstance(value, float))
            is_absent = value is None and name in _OPTIONAL
            if not is_absent and not (is_number and low <= value <= high):
                kind = "a number" if isinstance(low, float) else "an integer"
                raise ConfigurationError(f"{name} must be {kind} in [{low}, {high}], not {value!r}")
        if self.order not in get_args(Order):
            raise ConfigurationError(
                f"order must be one of {', '.join(get_args(Order))}, not {self.order!r}"
            )
        if self.tenant_by not in get_args(TenantBy):
            raise ConfigurationError(
                f"tenant_by must be one of {', '.join(get_args(TenantBy))}, not {self.tenant_by!r}"
            )
        _check_header(self.tenant_by, self.tenant_header)
        _check_priorities(self.least_priority, self.most_priority)
        for name in ("infer", "kv", "lora", "hash_names", "waits_for_loads", "gathers"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(
                    f"{name} must be true or false, not {getattr(self, name)!r}"
                )


_OPTIONAL = (
    *("prefetch_steps", "lora_prefetch_steps", "common_prefetch_tokens"),
    *("least_priority", "most_priority"),
)
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("expected_share", 0.0, 1.0),
    ("lifetime_pools", 0.0, 1e6),
    ("prefetch_steps", 0, 1000),
    ("lora_prefetch_steps", 0, 1000),
    ("prefetch_agents", 1, 4096),
    ("prefetch_tokens", 16, 1_000_000),
    ("most_tenants", 1, 4096),
    ("tenant_workflows", 1, 65_536),
    ("tenant_agents", 1, 65_536),
    ("tenant_prompt_tokens", 1, 1_000_000_000),
    ("tenant_prefetch_tokens", 0, 1_000_000_000),
    ("common_workflows", 1, 65_536),
    ("common_agents", 1, 65_536),
    ("common_prompt_tokens", 1, 1_000_000_000),
    ("common_prefetch_tokens", 0, 1_000_000_000),
    ("least_priority", -(2**31), 2**31 - 1),
    ("most_priority", -(2**31), 2**31 - 1),
)


def _check_header(tenant_by: str, header: object) -> None:
    if tenant_by == "header":
        if not isinstance(header, str) or not _HEADER_NAME.fullmatch(header):
            raise ConfigurationError(
                'tenant_by is "header": name it in tenant_header, such as "x-tenant", '
                f"not {header!r}"
            )
    elif header is not None:
        raise ConfigurationError(
            f'tenant_header is {header!r}, which counts only with "tenant_by": "header"'
        )


def _check_priorities(least: int | None, most: int | None) -> None:
    if least is not None and most is not None and least > most:
        raise ConfigurationError(f"least_priority is {least}, above most_priority, {most}")


def from_environment() -> Settings:
    """The settings in `KVFLOW_CONFIG`, a JSON object; what it leaves out keeps its default."""
    text = os.environ.get(VARIABLE)
    if not text:
        return Settings()
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"{VARIABLE} is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ConfigurationError(f"{VARIABLE} must be a JSON object")
    known = {field.name for field in fields(Settings)}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise ConfigurationError(f"{VARIABLE} has unknown {unknown}; known are {sorted(known)}")
    return Settings(**given)
