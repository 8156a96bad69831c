"""The base model as it lies on disk or on a hub: its weights, its tokenizer, and the limits of what it can read.

transformers takes seconds to import, so it is imported where something is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from actors.config import ModelConfig
from actors.data.chat import Tokenizer, fixed_template
from actors.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a base model can read."""

    embeddings: int
    """Rows of its embedding matrix: every token id lies below."""
    positions: int | None
    """Tokens of the longest text; None: the model states no limit."""


def load_base(config: ModelConfig) -> tuple[PreTrainedModel, Tokenizer]:
    """Load a causal language model and its tokenizer; raises ModelError with the path and what to do."""
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    with _loading(config) as path:
        AutoConfig.from_pretrained(path, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, config.dtype), attn_implementation=config.attention, trust_remote_code=False
        )
    model.generation_config = GenerationConfig()  # how text is generated is the evaluation's to say, not the model file's
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    return model.eval(), load_tokenizer(config)


def load_tokenizer(config: ModelConfig) -> Tokenizer:
    """Load the tokenizer of a base model alone; raises ModelError with the path and what to do."""
    from transformers import AutoTokenizer

    with _loading(config) as path:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    tokenizer.chat_template = fixed_template(tokenizer.chat_template)
    return tokenizer


def read_limits(config: ModelConfig) -> Limits:
    """The limits that the model's configuration states; raises ModelError with the path and what to do."""
    from transformers import AutoConfig

    with _loading(config) as path:
        text = AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config()
    return Limits(embeddings=text.vocab_size, positions=getattr(text, "max_position_embeddings", None))


def fingerprint(model: PreTrainedModel) -> str:
    """Sixteen hexadecimal digits of a sample of every parameter, in bfloat16, so that they do not depend on the loaded type."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 1024)].to(torch.bfloat16).to(torch.float32).cpu().numpy()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + np.ascontiguousarray(sample).tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def _loading(config: ModelConfig) -> Iterator[str]:
    """The model's path; what goes wrong in the block becomes a ModelError that names it."""
    if config.path is None:
        raise ModelError("model.path is not set: give a local directory or a hub name")
    try:
        yield config.path
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = str(error).partition("\n")[0]
        raise ModelError(f"model.path={config.path} does not load as a causal language model: {why}") from error
