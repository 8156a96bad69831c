"""Security-weighted FedAvg (McMahan, Moore, Ramage, Hampson and Agüera y Arcas, AISTATS 2017, arXiv 1602.05629, algorithm 1;
weights as in Safe-FedLLM, METHOD.md section 4).

Streams: whatever the number of clients, it holds one sum. In float64, so that equal updates average to themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from defense.rules.rule import Update


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """sum of n w delta, and of n w."""

    total: float = 0.0
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


def init() -> WeightedSum:
    return WeightedSum()


def add(state: WeightedSum, update: Update) -> WeightedSum:
    """Add one client's delta, float64, with mass n w."""
    mass = update.mass
    tensors = {
        name: mass * tensor if not state.tensors else state.tensors[name] + mass * tensor for name, tensor in update.delta.items()
    }
    return WeightedSum(state.total + mass, tensors)


def finish(state: WeightedSum) -> dict[str, torch.Tensor]:
    """sum n w delta / sum n w; raises ValueError when nothing was added."""
    if not state.total > 0:
        raise ValueError("no client was added")
    return {name: tensor / state.total for name, tensor in state.tensors.items()}
