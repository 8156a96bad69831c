"""Centered clipping (Karimireddy, He and Jaggi, ICML 2021, arXiv 2012.10333, the iteration "CC").

From the centre v, the aggregate of the last aggregated round (0 at first), L times: v moves by the mean of the
differences x_i - v, each clipped to the radius tau. The mean is weighted by n w. The centre is the memory across rounds
that stands in for the workers' momentum of the paper, of which clients here keep none.
"""

from __future__ import annotations

import torch

from defense.rules.gather import Gathered, combine
from defense.rules.geometry import median
from defense.rules.rule import Memory


def aggregate(
    updates: Gathered, memory: Memory, *, radius: float | None = None, iterations: int = 1
) -> tuple[dict[str, torch.Tensor], Memory]:
    """The centre after L iterations, which is also what is remembered.

    Args:
        memory: The last centre by tensor name, float64; empty: zeros.
        radius: tau, an L2 norm; None: the median distance from the centre, in each iteration.
        iterations: L.
    """
    zeros = {name: torch.zeros(updates.shape(name), dtype=torch.float64) for name in updates.names}
    centre = {name: memory.get(name, zero) for name, zero in zeros.items()}
    shares_N = updates.masses_N / updates.masses_N.sum()
    for _ in range(iterations):
        distances_N = _distances(updates, centre)
        limit = median(distances_N) if radius is None else radius
        moved_N = shares_N * torch.where(distances_N > limit, limit / distances_N, 1.0)
        pull, stay = combine(updates, moved_N), 1 - moved_N.sum()
        centre = {name: stay * tensor + pull[name] for name, tensor in centre.items()}
    return centre, centre


def _distances(updates: Gathered, centre: Memory) -> torch.Tensor:
    """L2 distance of each update from the centre, (N,)."""
    total_N = torch.zeros(len(updates), dtype=torch.float64)
    for name, part, rows_NW in updates.blocks():
        total_N += (rows_NW - centre[name].reshape(-1)[part]).square().sum(1)
    return total_N.sqrt()
