"""How fast a machine is: everything that the simulated engine knows of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kvflow_agents.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Machine:
    """Times in seconds, rates in tokens or bytes a second. ConfigurationError if out of range."""

    prefill_fixed_s: float
    """Of each prefill batch, however small."""
    prefill_tokens_per_s: float
    decode_fixed_s: float
    """Of each decode step."""
    decode_request_s: float = 0.0
    """More for each request in the step."""
    decode_context_token_s: float = 0.0
    """More for each token of the longest context in the step."""
    link_bytes_per_s: float = 38e9
    """From the host tier to the device."""
    token_bytes: int = 131_072
    """KV of one token, all layers."""
    adapter_bytes: int = 335_000_000
    """One LoRA adapter, as it is copied into a slot: of rank 64, for every projection."""
    layers: int = 32
    """In so many pieces a load overlaps with the prefill that waits for it."""
    chunk_tokens: int = 8192
    """The most that one prefill batch computes."""
    most_running: int = 256
    overhead_s: float = 0.0
    """Of each call outside the engine; calls do not wait for each other here."""
    frontend_s: float = 0.0
    """Of each call in the server's front end, one call at a time."""
    launch_s: float = 0.0
    """What starting an early copy takes of the scheduler's time."""

    def __post_init__(self) -> None:
        positive = (
            "prefill_tokens_per_s",
            "link_bytes_per_s",
            "token_bytes",
            "layers",
            "adapter_bytes",
        )
        for name in (*positive, "chunk_tokens", "most_running"):
            if not getattr(self, name) > 0:  # nor is NaN
                raise ConfigurationError(f"{name} must be more than 0")
        for name in (each for each in self.__slots__ if each.endswith("_s")):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} must not be negative")
        if self.prefill_fixed_s + self.decode_fixed_s <= 0:
            raise ConfigurationError("prefill_fixed_s and decode_fixed_s must not both be 0")

    def prefill_s(self, tokens: int) -> float:
        """One prefill batch that computes so many tokens, without loads."""
        return self.prefill_fixed_s + tokens / self.prefill_tokens_per_s

    def decode_s(self, requests: int, longest_tokens: int) -> float:
        """One decode step of so many requests."""
        return (
            self.decode_fixed_s
            + requests * self.decode_request_s
            + longest_tokens * self.decode_context_token_s
        )

    def load_s(self, tokens: int) -> float:
        """One load from the host tier."""
        return tokens * self.token_bytes / self.link_bytes_per_s

    @property
    def adapter_s(self) -> float:
        """One load of an adapter."""
        return self.adapter_bytes / self.link_bytes_per_s

    def overlapped_s(self, load_s: float, prefill_s: float) -> float:
        """A prefill whose layers each wait for their part of a load that begins with it."""
        last = 1 / self.layers
        return max(load_s * last + prefill_s, load_s + prefill_s * last)


MACHINES: Mapping[str, Machine] = {
    # Llama-3.1-8B's shape on one H100. Batch, step and link are measured (docs/performance.md); the
    # overhead is fitted to the ceiling's `single` run; prefill rate and front end are assumed.
    "h100-8b": Machine(
        prefill_fixed_s=0.030,
        prefill_tokens_per_s=25_000,
        decode_fixed_s=6.85e-3,
        decode_context_token_s=0.31e-6,
        overhead_s=0.019,
        frontend_s=0.001,
    ),
    # The random model of `kvflow model tiny` on two cores of a CPU.
    "cpu-tiny": Machine(
        prefill_fixed_s=0.012,
        prefill_tokens_per_s=45_000,
        decode_fixed_s=4e-3,
        link_bytes_per_s=1e9,
        token_bytes=512,
        layers=2,
        chunk_tokens=4096,
        most_running=32,
        overhead_s=0.004,
        frontend_s=0.001,
    ),
}


def named(name: str, *, link_gb_per_s: float | None = None) -> Machine:
    """The machine of a name, perhaps with another link. ConfigurationError if there is none."""
    if name not in MACHINES:
        raise ConfigurationError(f"there is no machine {name!r}; there are {', '.join(MACHINES)}")
    if link_gb_per_s is None:
        return MACHINES[name]
    return replace(MACHINES[name], link_bytes_per_s=link_gb_per_s * 1e9)
