"""LoRA adapters for the tiny model, random and all different: for tests of what serves whom."""

from __future__ import annotations

import json
from pathlib import Path

from kvflow_sglang.tiny_model import HIDDEN, LAYERS, SEED

CONFIG = "adapter_config.json"
RANK = 8

_KV_WIDTH = HIDDEN // 2
# Input and output width of each projection.
_WIDTHS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, _KV_WIDTH),
    "self_attn.v_proj": (HIDDEN, _KV_WIDTH),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (HIDDEN, 2 * HIDDEN),
    "mlp.up_proj": (HIDDEN, 2 * HIDDEN),
    "mlp.down_proj": (2 * HIDDEN, HIDDEN),
}


def write(folder: Path, number: int, *, rank: int = RANK) -> None:
    """Write adapter `number` in PEFT's format; the same bytes every time."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(SEED + number)
    weights: dict[str, torch.Tensor] = {}
    for layer in range(LAYERS):
        for name, (width_in, width_out) in _WIDTHS.items():
            a = torch.empty(rank, width_in).normal_(std=0.3, generator=generator)
            b = torch.empty(width_out, rank).normal_(std=0.3, generator=generator)
            if name.endswith(("o_proj", "down_proj")):
                b[0] = 0.0  # the constant that keeps the tiny model to printable tokens
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            weights |= {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config(rank), indent=2) + "\n", "utf-8")


def config(rank: int) -> dict[str, object]:
    """PEFT's configuration of an adapter of every projection."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [name.split(".")[1] for name in _WIDTHS],
    }
