"""The adapter of PEFT that `lora.start_from` names, in place of a fresh one: checked to be one that the run could have made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from actors.config import LoraConfig, ModelConfig
from actors.errors import ModelError
from actors.model.files import refuse_pointer

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_KEYS = {"r": "lora.r", "lora_alpha": "lora.alpha", "use_rslora": "lora.rslora"}
_ANY = {
    *("base_model_name_or_path", "revision", "peft_version", "auto_mapping", "task_type", "inference_mode"),  # about the file
    *("target_modules", "exclude_modules"),  # which its tensors show
    *("lora_dropout", "init_lora_weights"),  # about its training; the latter is looked at apart
}
"""Settings of PEFT in which an adapter may differ from the run's."""
_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base as it is. Others, such as PiSSA's, change its weights, and the adapter fits no other."""


def read_start(
    model: ModelConfig, lora: LoraConfig, settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, torch.Tensor]:
    """The values of the adapter, float32 on the CPU, in order of name.

    Args:
        lora: With `start_from`.
        settings: PEFT's, of the run's own adapter.
        shapes: Name of each tensor that the run trains -> its shape.

    Raises:
        ModelError: there is none, or it is not of this base, these settings and these tensors, or not finite; says in what.
    """
    folder = Path(str(lora.start_from))
    try:
        _check_settings(_read_settings(folder), settings, str(model.path))
        return _checked(_read_tensors(folder), shapes)
    except ModelError as error:
        raise ModelError(f"lora.start_from={folder}: {error}") from error


def _read_settings(folder: Path) -> dict[str, Any]:
    """What the file says, and PEFT's defaults where it says nothing."""
    from peft import LoraConfig as PeftLoraConfig

    file = folder / SETTINGS
    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise ModelError(
            f"{SETTINGS} cannot be read ({error.strerror}); name the folder of an adapter as PEFT saves it"
        ) from error
    except ValueError as error:
        raise ModelError(f"{SETTINGS} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{SETTINGS} should be an object, got {found!r:.80}")
    return PeftLoraConfig().to_dict() | found


def _check_settings(found: Mapping[str, Any], own: Mapping[str, Any], base: str) -> None:
    for key, value in sorted(found.items()):
        wanted = own.get(key)
        if key in _ANY or value == wanted or not (value or wanted):
            continue
        if key in _KEYS:
            raise ModelError(f"it has {key}={value}, the run {wanted}; set {_KEYS[key]}={json.dumps(value)}")
        raise ModelError(
            f"it has {key}={value!r:.80}, which no adapter of a run has: only pairs of LoRA factors are sent and checked"
        )
    if (begun := found.get("init_lora_weights")) not in _BEGINNINGS:
        raise ModelError(f"its training began with init_lora_weights={begun!r}, which changes the base; convert it to plain LoRA")
    named = found.get("base_model_name_or_path")
    if named and Path(named).resolve() != Path(base).resolve() and Path(named).name != Path(base).name:
        raise ModelError(
            f"it was trained on {named}, and model.path={base}; where that is the same model, write its new name into "
            f"base_model_name_or_path of {SETTINGS}"
        )


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    file = folder / WEIGHTS
    if not file.is_file():
        raise ModelError(f"it holds no {WEIGHTS}; adapters of other formats are not read, save it as safetensors")
    refuse_pointer(file)
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{WEIGHTS} cannot be read: {error}") from error


def _checked(found: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    if odd := sorted(set(found) ^ set(shapes)):
        who = "it" if odd[0] in found else "the run"
        raise ModelError(f"its tensors are not those of lora.target_modules: {who} alone has {odd[0]} ({len(odd)} such names)")
    for name, shape in sorted(shapes.items()):
        tensor = found[name]
        if tuple(tensor.shape) != shape:
            raise ModelError(f"{name} has shape {tuple(tensor.shape)} and should have {shape}: it is of another base")
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor.float()).all()):
            raise ModelError(f"{name} holds values that are no finite numbers")
    return {name: found[name].float() for name in sorted(found)}
