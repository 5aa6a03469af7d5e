"""A model folder with a real model's shape and no weights, for `--load-format dummy`.

Its LoRA adapters have weights: SGLang reads them from files.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from kvflow_sglang import tiny_lora, tiny_model

WEIGHTS = "adapter_model.safetensors"
# Small enough for answers to stay finite.
ADAPTER_STD = 1e-3

_HIDDEN, _KV, _INNER, _LAYERS = 4096, 1024, 14336, 32

# Llama-3.1-8B's shape, from its public config.json.
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": _HIDDEN,
    "intermediate_size": _INNER,
    "num_hidden_layers": _LAYERS,
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

# Input and output width of each projection.
_WIDTHS = {
    "self_attn.q_proj": (_HIDDEN, _HIDDEN),
    "self_attn.k_proj": (_HIDDEN, _KV),
    "self_attn.v_proj": (_HIDDEN, _KV),
    "self_attn.o_proj": (_HIDDEN, _HIDDEN),
    "mlp.gate_proj": (_HIDDEN, _INNER),
    "mlp.up_proj": (_HIDDEN, _INNER),
    "mlp.down_proj": (_INNER, _HIDDEN),
}


def write(folder: Path) -> None:
    """Write the configuration and a tokenizer of bytes; the weights stay out."""
    tiny_model.write(folder)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    (folder / "config.json").write_text(json.dumps(LLAMA_8B, indent=2) + "\n")


def write_adapter(folder: Path, *, rank: int) -> None:
    """Write an adapter of random small numbers: 335 MB at rank 64."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        made = torch.empty(shape, dtype=torch.bfloat16)
        return made.normal_(std=ADAPTER_STD, generator=generator)

    weights: dict[str, torch.Tensor] = {}
    for layer in range(_LAYERS):
        for name, (width_in, width_out) in _WIDTHS.items():
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            weights[f"{prefix}.lora_A.weight"] = random(rank, width_in)
            weights[f"{prefix}.lora_B.weight"] = random(width_out, rank)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / tiny_lora.CONFIG).write_text(json.dumps(tiny_lora.config(rank), indent=2) + "\n")


def link_adapter(folder: Path, *, like: Path) -> None:
    """Give another adapter's files a second name: servers load both, the disk holds one."""
    for name in (WEIGHTS, tiny_lora.CONFIG):
        os.link(like / name, folder / name)
