"""The base model with one LoRA adapter attached: loaded once per actor, adapter states swapped in place."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from actors.config import LoraConfig, ModelConfig
from actors.errors import ModelError
from actors.messages import AdapterLayout
from actors.model.base import fingerprint, load_base
from actors.model.lora import ADAPTER, attach, trained_parameters
from actors.model.start_adapter import SETTINGS, WEIGHTS, read_start
from actors.wire import encode_tensors
from probe.features import layer_of_modules

if TYPE_CHECKING:
    from peft import PeftModel


class AdaptedModel:
    """A frozen base model, its tokenizer, and one LoRA adapter, which holds one client's state at a time."""

    def __init__(self, config: ModelConfig, lora: LoraConfig, device: torch.device) -> None:
        base, self.tokenizer = load_base(config, device)
        self.device = device
        self._model_fingerprint = fingerprint(base)
        self._lora = lora
        self.peft: PeftModel = attach(base, lora)
        self.peft.to(device).eval()
        self._parameters = trained_parameters(self.peft, lora.r)
        for parameter in self._parameters.values():
            parameter.data = parameter.data.float()
        self._shapes = {name: tuple(parameter.shape) for name, parameter in self._parameters.items()}
        self._initial = (
            _fresh_adapter(self._shapes, lora.init_seed) if lora.start_from is None else self._read_start(config, lora)
        )
        self.load_adapter(self._initial)

    @property
    def adapter_parameters(self) -> dict[str, torch.nn.Parameter]:
        """PEFT parameter name -> the live parameter, in sorted order."""
        return self._parameters

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """A copy of the adapter on the CPU."""
        return {name: parameter.detach().to("cpu", copy=True) for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def load_adapter(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy a state into the live adapter; raises ModelError when it does not fit."""
        if set(state) != set(self._parameters):
            odd = sorted(set(state) ^ set(self._parameters))[:3]
            raise ModelError(f"the adapter state does not fit the model: only one of them has {odd}")
        for name, parameter in self._parameters.items():
            parameter.copy_(state[name])

    def initial_adapter(self) -> bytes:
        """The adapter from which every run of this model and LoRA starts, as safetensors: that of `lora.start_from`, or A drawn
        from the seed and B zero."""
        return encode_tensors(self._initial)

    @cached_property
    def layers(self) -> dict[str, int]:
        """PEFT parameter name -> index of its transformer layer, from 0."""
        modules = layer_of_modules(self.peft)
        return {name: modules[module] for name in self._parameters if (module := _module_of(name)) in modules}

    def layout(self) -> AdapterLayout:
        """Names, shapes and layers of the adapter, with the fingerprints that tie a probe to it."""
        initial = hashlib.sha256(self.initial_adapter()).hexdigest()
        scaled = " rslora" if self._lora.rslora else ""
        settings = f"r={self._lora.r} alpha={self._lora.alpha:g}{scaled} {initial}"
        return AdapterLayout(
            shapes=self._shapes,
            layers=self.layers,
            model_fingerprint=self._model_fingerprint,
            lora_fingerprint=hashlib.sha256(settings.encode()).hexdigest()[:16],
        )

    def peft_config_json(self) -> str:
        """The text of adapter_config.json for this adapter."""
        config = self._peft_settings()
        config["inference_mode"] = True
        return json.dumps(config, indent=2, sort_keys=True, default=lambda v: sorted(v) if isinstance(v, set) else str(v))

    def _peft_settings(self) -> dict[str, Any]:
        return self.peft.peft_config[ADAPTER].to_dict()

    def _read_start(self, config: ModelConfig, lora: LoraConfig) -> dict[str, torch.Tensor]:
        return read_start(config, lora, self._peft_settings(), self._shapes)


def choose_device() -> torch.device:
    """The GPU that Ray gave this process, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _fresh_adapter(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """LoRA's initialisation (Hu et al. 2021), drawn on the CPU in name order so that it is the same on any device."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name in sorted(shapes):
        tensor = torch.zeros(shapes[name])
        if ".lora_A." in name:
            bound = shapes[name][1] ** -0.5
            tensor.uniform_(-bound, bound, generator=generator)
        state[name] = tensor
    return state


def _module_of(parameter_name: str) -> str:
    return re.sub(r"\.lora_[AB]\.weight$", "", parameter_name)


def write_adapter(folder: Path, tensors: bytes, config_json: str) -> None:
    """Write an adapter in PEFT's layout, so that `PeftModel.from_pretrained` loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(tensors)
    (folder / SETTINGS).write_text(config_json + "\n")
