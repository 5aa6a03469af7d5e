"""The plugin's settings, from one environment variable."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields

from kvflow_agents.errors import ConfigurationError

VARIABLE = "KVFLOW_CONFIG"


@dataclass(frozen=True, slots=True)
class Settings:
    """How much influence hints have. ConfigurationError at construction if out of range."""

    expected_share: float = 0.75
    """The share of each tier's pool that expected prefixes hold before they compete by recency."""
    lifetime_pools: float = 4.0
    """A forecast counts until this many times the device pool has been evicted since."""

    def __post_init__(self) -> None:
        for name, low, high in (("expected_share", 0.0, 1.0), ("lifetime_pools", 0.0, 1e6)):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not low <= value <= high:
                raise ConfigurationError(
                    f"{name} must be a number in [{low}, {high}], not {value!r}"
                )


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
