"""Weights as whole numbers, so that order statistics cut exactly between clients.

Summed in floating point, n weights of 0.1 are not n times 0.1, and a client that should be trimmed would keep a
sliver of mass that an outlier of any size could use.
"""

from __future__ import annotations

import torch

UNIT = 1 << 30
"""Mass of the heaviest client. Sums of mass times n^2 must stay below 2^63: up to 92,000 clients."""


def whole_masses(weights_N: torch.Tensor) -> torch.Tensor:
    """Masses (N,) int64 in proportion to positive weights, the heaviest UNIT and none below 1; equal weights stay equal."""
    return (weights_N / weights_N.max() * UNIT).round().long().clamp(min=1)
