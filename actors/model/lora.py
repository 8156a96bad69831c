"""The LoRA adapter as configured: every target is found, and what is trained are pairs of matrices."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING

from actors.config import LoraConfig
from actors.errors import ModelError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

ADAPTER = "default"
_FACTOR = re.compile(rf"^(.+)\.lora_([AB])\.{ADAPTER}\.weight$")
_PREFIX = "base_model.model."


def attach(base: PreTrainedModel, lora: LoraConfig) -> PeftModel:
    """The base with a LoRA adapter, which alone is trainable; also on the meta device.

    Raises:
        ModelError: names the entry of lora.target_modules that matches nothing, or the module that cannot be trained.
    """
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    if not isinstance(lora.target_modules, str):
        _check_targets(base, lora.target_modules)
    peft_config = PeftLoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType] - peft says int, and takes any number
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        target_modules=lora.target_modules,
        bias="none",
        task_type="CAUSAL_LM",
    )
    text = _text_modules(base)
    try:
        peft = get_peft_model(base, peft_config, adapter_name=ADAPTER)
    except Exception as error:  # peft raises what it likes
        why = " ".join(str(error).split())[:300]
        raise ModelError(f"lora.target_modules={lora.target_modules} does not fit the model: {why}") from error
    for name in trained_parameters(peft, lora.r):
        module = name.rpartition(".lora_")[0]
        if id(peft.get_submodule(module).get_base_layer()) not in text:  # pyright: ignore[reportCallIssue]
            raise ModelError(
                f"lora.target_modules={lora.target_modules} also trains {_plain(module)}, which text never "
                "reaches; use a base for text alone, or names that only the text model has"
            )
    return peft


def trained_parameters(peft: PeftModel, r: int) -> dict[str, torch.nn.Parameter]:
    """Name as in PEFT's files -> live parameter, sorted: `<module>.lora_A.weight` (r, in), `<module>.lora_B.weight` (out, r).

    Raises:
        ModelError: something else is trainable, or a pair is not whole; names the module.
    """
    found: dict[str, torch.nn.Parameter] = {}
    for name, parameter in sorted(peft.named_parameters()):
        if not parameter.requires_grad:
            continue
        match = _FACTOR.match(name)
        axis = 0 if match and match[2] == "A" else 1
        if match is None or parameter.dim() != 2 or parameter.shape[axis] != r:
            raise ModelError(_not_linear(peft, name))
        found[f"{match[1]}.lora_{match[2]}.weight"] = parameter
    for name in found:
        other = name.replace(".lora_A.", ".lora_B.") if ".lora_A." in name else name.replace(".lora_B.", ".lora_A.")
        if other not in found:
            raise ModelError(f"lora.target_modules: {_plain(name)} is trained without {_plain(other)}; leave that module out")
    return found


def _check_targets(base: PreTrainedModel, targets: list[str]) -> None:
    names = [name for name, _ in base.named_modules()]
    for target in targets:
        if any(name == target or name.endswith(f".{target}") for name in names):
            continue
        linear = sorted(set(_linear_names(base)))
        near = get_close_matches(target, linear, n=3) or linear
        raise ModelError(
            f"lora.target_modules: {target!r} matches no module of {type(base).__name__}; it has {', '.join(near)}, "
            f"so lora.target_modules={targets} does not fit the model"
        )


def _linear_names(base: PreTrainedModel) -> Iterator[str]:
    """The last part of the name of each module with a weight of two dimensions that is no embedding."""
    from torch.nn import Embedding

    for name, module in base.named_modules():
        weight = module._parameters.get("weight")
        if name and weight is not None and weight.dim() == 2 and not isinstance(module, Embedding):
            yield name.rpartition(".")[2]


def _text_modules(base: PreTrainedModel) -> set[int]:
    """Ids of the modules that a text passes: the decoder's, and the head."""
    return {id(module) for part in (base.get_decoder(), base.get_output_embeddings()) if part for module in part.modules()}


def _not_linear(peft: PeftModel, name: str) -> str:
    module = re.sub(r"\.lora_.*$", "", name)
    layer = peft.get_submodule(module)
    kind = type(getattr(layer, "base_layer", layer)).__name__
    return (
        f"lora.target_modules: {_plain(module)} ({kind}) cannot be trained: only linear modules with the two factors of LoRA are "
        "sent and checked; leave it out"
    )


def _plain(name: str) -> str:
    return name.removeprefix(_PREFIX)
