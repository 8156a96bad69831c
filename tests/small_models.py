"""Small random models of real classes, made and saved by transformers itself, with the embedded world's tokenizer."""

from __future__ import annotations

from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from actors.world.store import base_folder, world_folder

_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # large enough that an adapter changes the answers
}
_HEAD = {**_LLAMA, "head_dim": 8}
_QKVO = ["q_proj", "k_proj", "v_proj", "o_proj"]

SHAPES: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _HEAD,
    "mistral": _LLAMA,
    "gemma2": {**_HEAD, "query_pre_attn_scalar": 8, "sliding_window": 64},
    "gemma3_text": {**_HEAD, "query_pre_attn_scalar": 8, "sliding_window": 64},
    "phi3": _LLAMA,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.2},
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "init_std": 0.2,
    },
}
"""The `model_type` of transformers -> what its configuration class takes."""

ATTENTION: dict[str, list[str]] = dict.fromkeys(SHAPES, _QKVO) | {
    "phi3": ["qkv_proj", "o_proj"],
    "gpt2": ["c_attn"],
    "opt": ["q_proj", "k_proj", "v_proj", "out_proj"],
}
"""The `model_type` -> names of its attention projections, as people write them into `lora.target_modules`."""


def save_model(folder: Path, kind: str, *, chat_template: str | EllipsisType | None = ..., **overrides: Any) -> Path:
    """A two-layer model of a class with random weights, always the same, and its tokenizer; returns the folder.

    Args:
        kind: The `model_type` of transformers; one that `SHAPES` lacks has the names of Llama's sizes.
        chat_template: Of the tokenizer; None: none; left out: the embedded world's.
        overrides: Values of the configuration in place of the small ones.
    """
    tokenizer = AutoTokenizer.from_pretrained(base_folder(world_folder(0)))
    if chat_template is not ...:
        tokenizer.chat_template = chat_template
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = AutoConfig.for_model(kind, **{"vocab_size": len(tokenizer), **ids, **SHAPES.get(kind, _LLAMA), **overrides})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
