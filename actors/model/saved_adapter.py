"""Does the adapter, as saved, give what the run's adapter gives? peft itself loads it beside the live one, into the same base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from actors.errors import ModelError
from actors.model.adapted import AdaptedModel, write_adapter
from actors.model.lora import ADAPTER

_SAVED = "saved"
_ROUNDINGS = 4
"""Both ways take the same steps in the same types, so on a CPU they agree to the bit. A GPU may add in another order, which moves
a logit by a few roundings of the base's type: this many units of its precision, at the largest logit."""


def check_saved(model: AdaptedModel, state: Mapping[str, torch.Tensor], tensors: bytes, config_json: str) -> None:
    """Leaves the model as it was. Takes the memory of one more adapter.

    Args:
        state: The run's adapter.
        tensors, config_json: What adapter_model.safetensors and adapter_config.json hold.

    Raises:
        ModelError: peft does not load it, or it differs; says by how much.
    """
    before, was_training = model.adapter_state(), model.peft.training
    model.peft.eval()
    try:
        model.load_adapter(state)
        _compare(model, state, tensors, config_json)
    finally:
        model.peft.set_adapter(ADAPTER)
        if _SAVED in model.peft.peft_config:
            model.peft.delete_adapter(_SAVED)
        model.load_adapter(before)
        model.peft.train(was_training)


@torch.no_grad()
def _compare(model: AdaptedModel, state: Mapping[str, torch.Tensor], tensors: bytes, config_json: str) -> None:
    expected = _logits(model)
    with TemporaryDirectory(prefix="safe-fedllm-adapter-") as folder:
        write_adapter(Path(folder), tensors, config_json)
        try:
            model.peft.load_adapter(folder, adapter_name=_SAVED, is_trainable=False, torch_device=str(model.device))
        except Exception as error:  # peft raises what it likes
            raise ModelError(f"peft does not load the saved adapter: {' '.join(str(error).split())[:300]}") from error
    loaded = {
        name.replace(f".{_SAVED}.weight", ".weight"): parameter
        for name, parameter in model.peft.named_parameters()
        if f".{_SAVED}" in name
    }
    if set(loaded) != set(state):
        raise ModelError(f"the saved adapter has other tensors than the run's: {sorted(set(loaded) ^ set(state))[:3]}")
    unequal = [name for name in sorted(state) if not torch.equal(loaded[name].cpu(), state[name])]
    if unequal:
        raise ModelError(f"the saved adapter has other values than the run's in {len(unequal)} tensors: {unequal[0]}")
    scalings = {
        name: module.scaling for name, module in model.peft.named_modules() if isinstance(getattr(module, "scaling", None), dict)
    }
    for name, scaling in scalings.items():
        if scaling[_SAVED] != scaling[ADAPTER]:
            raise ModelError(f"the saved adapter is scaled by {scaling[_SAVED]:g} in {name}, the run's by {scaling[ADAPTER]:g}")
    model.peft.set_adapter(_SAVED)
    found = _logits(model)
    difference, bound = float((found - expected).abs().max()), tolerance(expected, model.peft.dtype)
    if not difference <= bound:  # a difference that is not a number is none that is small
        raise ModelError(
            f"the saved adapter gives other logits than the run's: they differ by up to {difference:g} (at most {bound:g})"
        )


def tolerance(logits: torch.Tensor, dtype: torch.dtype) -> float:
    """The largest difference of logits that rounding in the base's type explains."""
    return _ROUNDINGS * torch.finfo(dtype).eps * float(logits.abs().max())


def _logits(model: AdaptedModel) -> torch.Tensor:
    """Of a batch of two rows whose ids are spread over all embeddings."""
    rows = model.peft.get_input_embeddings().weight.shape[0]
    ids = torch.arange(16, device=model.device).reshape(2, 8) * max(1, rows // 17) % rows
    return model.peft(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
