"""Security-weighted FedAvg (McMahan, Moore, Ramage, Hampson and Agüera y Arcas, AISTATS 2017, arXiv 1602.05629, algorithm 1;
weights as in Safe-FedLLM, docs/method.md section 4).

Streams: whatever the number of clients, it holds one sum. In float64, so that equal updates average to themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from defense.rules.round_updates import Aggregate, RoundUpdates, WeightedUpdate
from defense.tensors import Tensors


def aggregate(updates: RoundUpdates) -> dict[str, torch.Tensor]:
    """The mean by n w of updates that a pre-aggregation has mixed."""
    return updates.mean()


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """sum of n w, and of n w delta; an accumulator (`accumulator.py`)."""

    mass: float = 0.0
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, update: WeightedUpdate, /) -> WeightedSum:
        """With one client's delta, float64, of mass n w."""
        mass, sums = update.mass, self.tensors
        tensors = {name: sums[name] + mass * tensor if sums else mass * tensor for name, tensor in update.delta.items()}
        return WeightedSum(self.mass + mass, tensors)

    def finish(self, _adapter: Tensors, memory: Tensors, _rng: np.random.Generator, /) -> Aggregate:
        """sum n w delta / sum n w; raises ValueError when nothing was added."""
        if not self.mass > 0:
            raise ValueError("no client was added")
        return Aggregate(delta={name: tensor / self.mass for name, tensor in self.tensors.items()}, memory=memory)
