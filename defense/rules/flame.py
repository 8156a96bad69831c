"""FLAME (Nguyen, Rieger, Chen, Yalame, Möllering, Fereidooni, Marchal, Miettinen, Mirhoseini, Zeitouni, Koushanfar, Sadeghi and
Schneider, USENIX Security 2022, arXiv 2101.02281, algorithm 1).

HDBSCAN clusters the updates by cosine distance, with more than half of the clients as its smallest cluster; clients outside are
dropped. The others are clipped to the median norm of all and averaged, weighted by n w, and noise is added. The paper compares
models; here the UPDATES are compared, since models that share a start are all alike.
"""

from __future__ import annotations

import numpy as np
import torch

from defense.rules.config import FlameConfig
from defense.rules.geometry import cosines, median, norms
from defense.rules.round_updates import RoundUpdates


def aggregate(updates: RoundUpdates, *, rng: np.random.Generator, settings: FlameConfig) -> dict[str, torch.Tensor]:
    """The clipped mean of the majority cluster, with noise."""
    norms_N = norms(updates)
    limit = float(median(norms_N))
    masses_N = updates.masses_N * majority(1 - cosines(updates))
    clip_N = torch.where(norms_N > limit, limit / norms_N, 1.0)
    clipped = updates.combine(masses_N / masses_N.sum() * clip_N)
    return _noisy(clipped, rng, settings.noise * limit) if settings.noise else clipped


def majority(distances_NN: torch.Tensor) -> torch.Tensor:
    """1 for the members of HDBSCAN's cluster of more than half of the clients, 0 for the others, (N,) float64.

    `min_samples` counts the client itself in scikit-learn: 2 is the nearest other, the 1 of the paper's hdbscan.
    """
    from sklearn.cluster import HDBSCAN  # takes a second to import, and no other rule needs it

    count = len(distances_NN)
    if count < 3:
        return torch.ones(count, dtype=torch.float64)
    distances = distances_NN.clamp(min=0).fill_diagonal_(0).numpy()
    clusters = HDBSCAN(
        min_cluster_size=count // 2 + 1,
        min_samples=2,
        metric="precomputed",
        allow_single_cluster=True,
        copy=True,  # pyright: ignore[reportArgumentType] - scikit-learn has no types, and its default here is a text
    ).fit(distances)
    inside_N = torch.from_numpy(clusters.labels_ >= 0).double()
    return inside_N if inside_N.any() else torch.ones(count, dtype=torch.float64)


def _noisy(tensors: dict[str, torch.Tensor], rng: np.random.Generator, deviation: float) -> dict[str, torch.Tensor]:
    return {
        name: tensor + deviation * torch.from_numpy(rng.standard_normal(tuple(tensor.shape))) for name, tensor in tensors.items()
    }
