"""What a run would find in its base model, without loading weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from actors.config import LoraConfig, ModelConfig
from actors.model.base import load_on_meta, load_tokenizer
from actors.model.lora import ADAPTER, attach, trained_parameters
from actors.model.start_adapter import read_start


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseReport:
    """A base model with its LoRA adapter."""

    model_class: str
    parameters: int
    """Values of the base."""
    lora_tensors: int
    lora_values: int
    """Float32 values of one update."""


def check_base(config: ModelConfig, lora: LoraConfig) -> BaseReport:
    """Check files, architecture, tokenizer and targets of LoRA; raises ModelError that names path or key and the fix."""
    base = load_on_meta(config)
    load_tokenizer(config)
    model_class, parameters = type(base).__name__, sum(parameter.numel() for parameter in base.parameters())
    with torch.device("meta"):
        peft = attach(base, lora)
        trained = trained_parameters(peft, lora.r)
    if lora.start_from is not None:
        read_start(config, lora, peft.peft_config[ADAPTER].to_dict(), {name: tuple(p.shape) for name, p in trained.items()})
    return BaseReport(
        model_class=model_class,
        parameters=parameters,
        lora_tensors=len(trained),
        lora_values=sum(parameter.numel() for parameter in trained.values()),
    )
