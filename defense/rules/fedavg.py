"""Security-weighted FedAvg (McMahan, Moore, Ramage, Hampson and Agüera y Arcas, AISTATS 2017, arXiv 1602.05629, algorithm 1;
weights as in Safe-FedLLM, docs/method.md section 4).

Streams: whatever the number of clients, it holds one sum, which each client is added to in its place. In float64, so that equal
updates average to themselves.
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


@dataclass(slots=True)
class WeightedSum:
    """sum of n w, and of n w delta; an accumulator (`accumulator.py`)."""

    mass: float = 0.0
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    _scratch: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    """As many values as the largest tensor has."""

    def add(self, update: WeightedUpdate, /) -> None:
        """Take in one client's delta, of mass n w."""
        self.mass += update.mass
        if not self.tensors:
            self.tensors = {name: update.mass * tensor.double() for name, tensor in update.delta.items()}
            self._scratch = torch.empty(max(map(torch.numel, self.tensors.values()), default=0), dtype=torch.float64)
            return
        for name, tensor in update.delta.items():
            weighted = self._scratch[: tensor.numel()].view(tensor.shape)
            self.tensors[name] += weighted.copy_(tensor).mul_(update.mass)

    def finish(self, _adapter: Tensors, memory: Tensors, _rng: np.random.Generator, /) -> Aggregate:
        """sum n w delta / sum n w; raises ValueError when nothing was added."""
        if not self.mass > 0:
            raise ValueError("no client was added")
        return Aggregate(delta={name: tensor / self.mass for name, tensor in self.tensors.items()}, memory=memory)
