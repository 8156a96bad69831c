"""Divide-and-conquer, DnC (Shejwalkar and Houmansadr, "Manipulating the Byzantine", NDSS 2021, algorithm 2).

b coordinates are drawn at random, and the c f clients whose centred updates have the largest squared projection on their top
right singular direction are dropped. After several draws the clients that were never dropped are averaged, weighted by n w.
If there are none, the clients dropped least often are averaged.
"""

from __future__ import annotations

import numpy as np
import torch

from defense.rules.config import DncConfig
from defense.rules.geometry import lowest
from defense.rules.round_updates import RoundUpdates


def aggregate(updates: RoundUpdates, *, f: int, rng: np.random.Generator, settings: DncConfig) -> dict[str, torch.Tensor]:
    """The weighted mean of the clients that every iteration keeps."""
    total = sum(updates.size(name) for name in updates.names)
    times_kept_N = torch.zeros(len(updates), dtype=torch.int64)
    for _ in range(settings.iterations):
        drawn = np.sort(rng.choice(total, size=min(settings.coordinates, total), replace=False, shuffle=False))
        scores_N = outlier_scores(_columns(updates, torch.from_numpy(drawn)))
        times_kept_N[lowest(scores_N, len(updates) - int(settings.filtering * f))] += 1
    return updates.mean_of(torch.nonzero(times_kept_N == times_kept_N.max())[:, 0].tolist())


def outlier_scores(rows_NW: torch.Tensor) -> torch.Tensor:
    """Squared projection (N,) of each centred row on the top right singular direction.

    By the eigenvectors of the Gram matrix of the rows: with the singular value s and left singular vector u, the
    projections are s u.
    """
    centred_NW = rows_NW - rows_NW.mean(0)
    squares_N, left_NN = torch.linalg.eigh(centred_NW @ centred_NW.T)
    return squares_N[-1] * left_NN[:, -1].square()


def _columns(updates: RoundUpdates, drawn: torch.Tensor) -> torch.Tensor:
    """The values (N, W) at ascending positions in the concatenation of all tensors in order of name."""
    parts, start = [], 0
    for name in updates.names:
        end = start + updates.size(name)
        inside = drawn[(drawn >= start) & (drawn < end)] - start
        parts.append(updates.rows_NW(name, inside))
        start = end
    return torch.cat(parts, dim=1)
