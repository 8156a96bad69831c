"""LASA, layer-adaptive sparsified aggregation (Xu, Zhang and Hu, WACV 2025, arXiv 2409.01435, algorithm 1).

Each update is clipped to the median norm of all and loses its smallest values. Then for every tensor by itself (the
paper's layer) two figures of a client are compared with the clients' median, in standard deviations: the norm, and the
purity of signs, (1 + (positive - negative) / (positive + negative)) / 2. A client farther away than the radius in either is
left out of that tensor's mean, which is weighted by n w. If that leaves no client, all count.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
import torch

from defense.rules.config import LasaConfig
from defense.rules.geometry import median, norms
from defense.rules.round_updates import RoundUpdates

_ROUNDING = 1e-12
"""Relative. A mixed update's values are summed in one order for the threshold and in another for the comparison with it."""
_SLACK = 1e-9
"""Relative. Two clients are exactly one standard deviation from their median, so rounding would decide which of them counts."""


def aggregate(updates: RoundUpdates, *, settings: LasaConfig) -> dict[str, torch.Tensor]:
    """The mean, tensor by tensor, of the clipped, sparsified updates that pass."""
    norms_N = norms(updates)
    limit = median(norms_N)
    clip_N1 = torch.where(norms_N > limit, limit / norms_N, 1.0)[:, None]
    least = [[_least_kept(updates.row(index), settings.sparsity)] for index in range(len(updates))]
    least_N1 = torch.tensor(least, dtype=torch.float64)

    def kept_NW(name: str, part: slice) -> torch.Tensor:
        rows_NW = updates.rows_NW(name, part)
        return rows_NW * (rows_NW.abs() >= least_N1) * clip_N1

    result = {}
    for name in updates.names:
        blocks = [_figures(kept_NW(name, part)) for part in updates.parts(name)]
        squares_N, positive_N, negative_N = (reduce(torch.add, figures) for figures in zip(*blocks, strict=True))
        purity_N = sign_purity(positive_N, negative_N)
        passes_N = near_median(squares_N.sqrt(), settings.norm_radius) & near_median(purity_N, settings.sign_radius)
        masses_N = updates.masses_N * passes_N if passes_N.any() else updates.masses_N
        shares_N = masses_N / masses_N.sum()
        result[name] = torch.cat([shares_N @ kept_NW(name, part) for part in updates.parts(name)]).reshape(updates.shape(name))
    return result


def near_median(figures_N: torch.Tensor, radius: float) -> torch.Tensor:
    """Whether each figure lies within `radius` standard deviations (over N, not N - 1) of the median; (N,) bool."""
    return (figures_N - median(figures_N)).abs() <= radius * figures_N.std(correction=0) * (1 + _SLACK)


def sign_purity(positive_N: torch.Tensor, negative_N: torch.Tensor) -> torch.Tensor:
    """Share of positive values among those that are not 0, (N,); 1/2 where all are 0."""
    return (1 + (positive_N - negative_N) / (positive_N + negative_N).clamp(min=1)) / 2


def _figures(rows_NW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum of squares, number of positive and of negative values of each row, (N,)."""
    return rows_NW.square().sum(1), (rows_NW > 0).sum(1), (rows_NW < 0).sum(1)


def _least_kept(tensors: dict[str, torch.Tensor], sparsity: float) -> float:
    """The magnitude from which on a value is kept: all but the `sparsity` smallest, ties with the last one included."""
    magnitudes = np.concatenate([tensor.reshape(-1).abs().numpy() for tensor in tensors.values()])
    place = int(sparsity * len(magnitudes))
    return float(np.partition(magnitudes, place)[place]) * (1 - _ROUNDING)
