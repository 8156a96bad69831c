"""FLAME (Nguyen, Rieger, Chen, Yalame, Möllering, Fereidooni, Marchal, Miettinen, Mirhoseini, Zeitouni, Koushanfar, Sadeghi and
Schneider, USENIX Security 2022, arXiv 2101.02281, algorithm 1).

The updates are clustered by cosine distance with HDBSCAN, whose smallest cluster is more than half of the clients; who is
outside is dropped. The others are clipped to the median norm of all and averaged, weighted by n w, and noise is added. The
paper compares models; the UPDATES are compared here, since models that share a start are all alike.
"""

from __future__ import annotations

import numpy as np
import torch

from defense.rules.gather import Gathered, combine
from defense.rules.geometry import cosines, median, norms


def aggregate(updates: Gathered, rng: np.random.Generator, *, noise: float = 0.001) -> dict[str, torch.Tensor]:
    """The clipped mean of the majority cluster, with noise.

    Args:
        noise: lambda; each value gets noise of standard deviation lambda times the clipping norm. 0: none is drawn.
    """
    norms_N = norms(updates)
    limit = float(median(norms_N))
    masses_N = updates.masses_N * majority(1 - cosines(updates))
    clip_N = torch.where(norms_N > limit, limit / norms_N, 1.0)
    clipped = combine(updates, masses_N / masses_N.sum() * clip_N)
    return _noisy(clipped, rng, noise * limit) if noise else clipped


def majority(distances_NN: torch.Tensor) -> torch.Tensor:
    """1 for the members of HDBSCAN's cluster of more than half of the clients, 0 for the others, (N,) float64.

    `min_samples` counts the client itself in scikit-learn: 2 is the nearest other, the 1 of the paper's hdbscan.
    """
    from sklearn.cluster import HDBSCAN  # takes a second to import, which no other rule should pay

    count = len(distances_NN)
    if count < 3:
        return torch.ones(count, dtype=torch.float64)
    distances = distances_NN.clamp(min=0).fill_diagonal_(0).numpy()
    clusters = HDBSCAN(
        min_cluster_size=count // 2 + 1, min_samples=2, metric="precomputed", allow_single_cluster=True, copy=True
    ).fit(distances)
    inside_N = torch.from_numpy(clusters.labels_ >= 0).double()
    return inside_N if inside_N.any() else torch.ones(count, dtype=torch.float64)


def _noisy(tensors: dict[str, torch.Tensor], rng: np.random.Generator, deviation: float) -> dict[str, torch.Tensor]:
    return {
        name: tensor + deviation * torch.from_numpy(rng.standard_normal(tuple(tensor.shape))) for name, tensor in tensors.items()
    }
