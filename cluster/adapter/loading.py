"""The adapter of a run on its base model, loaded by peft as anybody else would load it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import PeftModel

from actors.model.base import load_base
from actors.model.quantization import is_quantized
from cluster.config.loading import load_config
from cluster.data.sources import base_model
from cluster.errors import ConfigError

if TYPE_CHECKING:
    from actors.model.base import Tokenizer


def load_adapted(run: Path, device: torch.device | None = None, *, dequantized: bool = False) -> tuple[PeftModel, Tokenizer]:
    """The base model of a run with its final adapter, and the tokenizer; within `model.disable_adapter()` it is the base model.

    Args:
        device: None: the CPU.
        dequantized: Whether the weights of a quantised base are laid out in `model.dtype`, each at its quantised value.

    Raises:
        ConfigError: no run lies there, or it has no adapter yet. ModelError: the base model cannot be loaded.
    """
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run} holds no run (no config.yaml); name a directory that `safe-fedllm run` wrote")
    folder = run / "adapter"
    if not (folder / "adapter_config.json").is_file():
        raise ConfigError(f"{run} has no adapter yet; let its run end: safe-fedllm run --resume {run}")
    base, tokenizer = load_base(base_model(load_config(run / "config.yaml")), device)
    if dequantized and is_quantized(base):
        base = base.dequantize(dtype=base.dtype)
    return PeftModel.from_pretrained(base, str(folder)).to(device or torch.device("cpu")).eval(), tokenizer
