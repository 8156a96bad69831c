"""Security-weighted FedAvg (McMahan et al. 2017; Safe-FedLLM, METHOD.md section 4).

Streams: whatever the number of clients, it holds one sum. In float64, so that equal updates average to themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from defense.rules.rule import Delta


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """sum of n w delta, and of n w."""

    total: float = 0.0
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


def init() -> WeightedSum:
    return WeightedSum()


def add(state: WeightedSum, delta: Delta, num_samples: int, weight: float) -> WeightedSum:
    """Add one client's delta with mass num_samples x weight; the mass must be positive."""
    mass = num_samples * weight
    if not mass > 0:
        raise ValueError(f"a client of mass {mass} (num_samples {num_samples} x weight {weight}) must not be added")
    tensors = {
        name: mass * tensor if not state.tensors else state.tensors[name] + mass * tensor for name, tensor in delta.items()
    }
    return WeightedSum(state.total + mass, tensors)


def finish(state: WeightedSum) -> dict[str, torch.Tensor]:
    """sum n w delta / sum n w; raises ValueError when nothing was added."""
    if not state.total > 0:
        raise ValueError("no client was added")
    return {name: tensor / state.total for name, tensor in state.tensors.items()}
