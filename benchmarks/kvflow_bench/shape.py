"""A model folder with a real model's shape and no weights, for `--load-format dummy`."""

from __future__ import annotations

import json
from pathlib import Path

from kvflow_sglang import tiny_model

# Llama-3.1-8B's shape, from its public config.json.
LLAMA_8B = {
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


def write(folder: Path) -> None:
    """Write the configuration and a tokenizer of bytes; the weights stay out."""
    tiny_model.write(folder)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    (folder / "config.json").write_text(json.dumps(LLAMA_8B, indent=2) + "\n")
