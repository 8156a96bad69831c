"""Features of an update: from a delta (LoRA tensors now minus then) to one vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

_SMALLEST_NORM = 1e-12


@dataclass(frozen=True, slots=True)
class Feature:
    """Which tensors a feature reads, and how it turns them into a vector."""

    select: Callable[[Mapping[str, int]], tuple[str, ...]]
    """From PEFT parameter name -> layer index to the sorted names it reads."""
    extract: Callable[[Mapping[str, torch.Tensor]], np.ndarray]
    """From exactly those tensors to a float32 vector (d,)."""


def _first_layer_b_names(layers: Mapping[str, int]) -> tuple[str, ...]:
    if not layers:
        return ()
    first = min(layers.values())
    return tuple(sorted(name for name, layer in layers.items() if layer == first and ".lora_B." in name))


def unit_concatenation(delta: Mapping[str, torch.Tensor]) -> np.ndarray:
    """Every tensor flattened, concatenated in sorted key order, divided by the L2 norm; (d,) float32.

    A norm below 1e-12 divides by 1 (METHOD.md section 2), so a delta of zeros stays zeros.
    """
    flat = np.concatenate([delta[name].reshape(-1).numpy().astype(np.float64) for name in sorted(delta)])
    norm = float(np.sqrt(np.add.reduce(flat * flat)))
    return (flat / (norm if norm >= _SMALLEST_NORM else 1.0)).astype(np.float32)


FEATURES: dict[str, Feature] = {
    "first_layer_b": Feature(select=_first_layer_b_names, extract=unit_concatenation),
}
"""Feature name -> feature. `first_layer_b` is the paper's: the B matrices of the first transformer layer."""


def tensor_names(feature: str, layers: Mapping[str, int]) -> tuple[str, ...]:
    """Names of the tensors that `feature` reads in an adapter whose parameters lie in these layers.

    Raises:
        ValueError: unknown feature, or no LoRA tensor for it.
    """
    if feature not in FEATURES:
        raise ValueError(f"unknown probe feature {feature!r}; known: {sorted(FEATURES)}")
    names = FEATURES[feature].select(layers)
    if not names:
        raise ValueError(
            f"the feature {feature} finds no LoRA tensor to read: the adapter has no module inside the transformer layers"
        )
    return names
