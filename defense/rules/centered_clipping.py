"""Centered clipping (Karimireddy, He and Jaggi, ICML 2021, arXiv 2012.10333, the iteration "CC").

From the centre v, the aggregate of the last aggregated round (0 at first), L times: v moves by the mean of the
differences x_i - v, each clipped to the radius tau. The mean is weighted by n w. The centre is the memory across rounds
that stands in for the paper's momentum of the workers: clients here keep none.
"""

from __future__ import annotations

import torch

from defense.rules.config import CenteredClippingConfig
from defense.rules.geometry import median
from defense.rules.round_updates import RoundUpdates
from defense.tensors import Tensors


def aggregate(
    updates: RoundUpdates, *, memory: Tensors, settings: CenteredClippingConfig
) -> tuple[dict[str, torch.Tensor], Tensors]:
    """The centre after L iterations, twice: it is also the new memory.

    Args:
        memory: The last centre by tensor name, float64; empty: zeros.
    """
    zeros = {name: torch.zeros(updates.shape(name), dtype=torch.float64) for name in updates.names}
    centre = {name: memory.get(name, zero) for name, zero in zeros.items()}
    shares_N = updates.masses_N / updates.masses_N.sum()
    for _ in range(settings.iterations):
        distances_N = _distances(updates, centre)
        limit = median(distances_N) if settings.radius is None else settings.radius
        moved_N = shares_N * torch.where(distances_N > limit, limit / distances_N, 1.0)
        pull, stay = updates.combine(moved_N), 1 - moved_N.sum()
        centre = {name: stay * tensor + pull[name] for name, tensor in centre.items()}
    return centre, centre


def _distances(updates: RoundUpdates, centre: Tensors) -> torch.Tensor:
    """L2 distance of each update from the centre, (N,)."""
    total_N = torch.zeros(len(updates), dtype=torch.float64)
    for name, part, rows_NW in updates.blocks():
        total_N += (rows_NW - centre[name].reshape(-1)[part]).square().sum(1)
    return total_N.sqrt()
