"""A small random Llama whose tokens are characters: for tests, where only the cache matters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SEED = 20250710
CONTEXT_TOKENS = 32_768
HIDDEN = 64
LAYERS = 2
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_OF_TURN = "<|im_end|>"
CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') }}
{%- if message['tool_calls'] %}{{ message['tool_calls'] | tojson }}{% endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def write(folder: Path) -> None:
    """Write config, weights, tokenizer and generation config; the same bytes every time."""
    vocabulary = _vocabulary()
    _write_tokenizer(folder, vocabulary)
    _write_weights(folder, vocabulary)


def _vocabulary() -> dict[str, int]:
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [*SPECIAL_TOKENS, *sorted(ByteLevel.alphabet())]
    return {token: number for number, token in enumerate(tokens)}


def _write_tokenizer(folder: Path, vocabulary: dict[str, int]) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # Byte-level BPE without merges: one token per byte, so one per ASCII character.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=SPECIAL_TOKENS[0],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def _write_weights(folder: Path, vocabulary: dict[str, int]) -> None:
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=vocabulary[END_OF_TURN],
        pad_token_id=vocabulary[SPECIAL_TOKENS[0]],
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.dim() == 2:  # the norms keep their ones
                # Wide enough that the two best tokens are far apart next to rounding errors.
                spread = 1.0 if name.endswith(("embed_tokens.weight", "lm_head.weight")) else 0.3
                weight.normal_(std=spread, generator=generator)
        _keep_to_printable_tokens(model, vocabulary)
    model.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.save_pretrained(folder)


def _keep_to_printable_tokens(model: torch.nn.Module, vocabulary: dict[str, int]) -> None:
    """Let the model write only printable ASCII and its end of turn.

    Text then encodes to the very tokens it was decoded from, so that an answer inside the next
    prompt is a cache hit. Llama has no output bias: hidden dimension 0 is made a constant one.
    """
    printable = {chr(code) for code in range(ord("!"), ord("~") + 1)} | {"Ġ", END_OF_TURN}
    for name, weight in model.named_parameters():
        if name.endswith("embed_tokens.weight"):
            weight[:, 0] = 4.0
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            weight[0, :] = 0.0
        elif name == "lm_head.weight":
            weight[:, 0] = -1_000.0
            weight[[vocabulary[token] for token in printable], 0] = 0.0
