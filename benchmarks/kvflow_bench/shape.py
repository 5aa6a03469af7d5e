"""A model folder with a real model's shape and no weights, for `--load-format dummy`.

Its LoRA adapters have weights: SGLang reads them from files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvflow_agents.errors import ConfigurationError
from kvflow_sglang import tiny_lora, tiny_model

WEIGHTS = "adapter_model.safetensors"
# Small enough for answers to stay finite.
ADAPTER_STD = 1e-3

Shape = Mapping[str, Any]
"""What a config.json says of a model."""

# Both from their public config.json.
LLAMA_8B: Shape = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
QWEN_32B: Shape = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
SHAPES = {"llama-3.1-8b": LLAMA_8B, "qwen2.5-32b": QWEN_32B}


def named(name: str) -> Shape:
    """The shape of a name. ConfigurationError if there is none."""
    if name not in SHAPES:
        raise ConfigurationError(f"there is no shape {name!r}; there are {', '.join(SHAPES)}")
    return SHAPES[name]


def _widths(shape: Shape) -> dict[str, tuple[int, int]]:
    """Input and output width of each projection."""
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    kv = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    return {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden, kv),
        "self_attn.v_proj": (hidden, kv),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (hidden, inner),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }


def write(folder: Path, *, shape: Shape = LLAMA_8B) -> None:
    """Write the configuration and a tokenizer of bytes; the weights stay out."""
    tiny_model.write(folder)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    (folder / "config.json").write_text(json.dumps(shape, indent=2) + "\n")


def write_adapter(folder: Path, *, rank: int, shape: Shape = LLAMA_8B) -> None:
    """Write an adapter of random small numbers: 335 MB at rank 64 for Llama-3.1-8B's shape."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        made = torch.empty(size, dtype=torch.bfloat16)
        return made.normal_(std=ADAPTER_STD, generator=generator)

    weights: dict[str, torch.Tensor] = {}
    for layer in range(shape["num_hidden_layers"]):
        for name, (width_in, width_out) in _widths(shape).items():
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            weights[f"{prefix}.lora_A.weight"] = random(rank, width_in)
            weights[f"{prefix}.lora_B.weight"] = random(width_out, rank)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / tiny_lora.CONFIG).write_text(json.dumps(tiny_lora.config(rank), indent=2) + "\n")


def link_adapter(folder: Path, *, like: Path) -> None:
    """Give another adapter's files a second name: servers load both, the disk holds one."""
    for name in (WEIGHTS, tiny_lora.CONFIG):
        os.link(like / name, folder / name)
