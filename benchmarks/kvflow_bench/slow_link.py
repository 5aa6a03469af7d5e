"""A host link slowed down by SGLang's own test switch, which delays every layer of a load-back."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

from kvflow_agents.errors import ConfigurationError
from kvflow_bench.fleet import Launch

VARIABLE = "SGLANG_TEST_HICACHE_H2D_DELAY_CYCLES"
# An H100's or H200's; where no driver says.
CLOCK_HZ = 1.98e9
BYTES_PER_NUMBER = 2


def slowed(launch: Launch, gb_per_s: float, load_tokens: int) -> Launch:
    """The same servers, whose loads of so many tokens run at `gb_per_s`.

    ConfigurationError on a CPU, or if the model's shape is not known.
    """
    if launch.engine != "gpu":
        raise ConfigurationError("--slow-link needs a GPU: there is no link to a CPU's host tier")
    layer_bytes = load_tokens * layer_token_bytes(Path(launch.model))
    cycles = delay_cycles(gb_per_s, layer_bytes, gpu_clock_hz())
    return replace(launch, env={**launch.env, VARIABLE: str(cycles)})


def delay_cycles(gb_per_s: float, layer_bytes: int, clock_hz: float) -> int:
    """The delay of one layer for which a load with so many bytes in it runs at `gb_per_s`.

    The switch delays each load by the same time, whatever its size: smaller loads run slower than
    asked for, larger ones faster.
    """
    return round(layer_bytes / (gb_per_s * 1e9) * clock_hz)


def layer_token_bytes(model: Path) -> int:
    """What one token's keys and values take in one layer, in half precision.

    ConfigurationError if the folder's config.json does not say.
    """
    try:
        config = json.loads((model / "config.json").read_text())
        heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        kv_heads = config.get("num_key_value_heads") or heads
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(f"--slow-link needs the shape of {model}: {error!r}") from error
    return int(2 * kv_heads * head_dim * BYTES_PER_NUMBER)


def gpu_clock_hz() -> float:
    """The highest clock of the first GPU, as its driver says, or a Hopper GPU's."""
    command = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30)
        return float(shown.stdout.splitlines()[0]) * 1e6
    except (OSError, subprocess.TimeoutExpired, IndexError, ValueError):
        return CLOCK_HZ
