"""Divide-and-conquer, DnC (Shejwalkar and Houmansadr, "Manipulating the Byzantine", NDSS 2021, algorithm 2).

Of b coordinates drawn at random, the centred updates' top right singular direction is found; the c f clients with the
largest squared projection on it are dropped. Repeated with other draws, those that were never dropped are averaged,
weighted by n w. Should none be left, those dropped least often are.
"""

from __future__ import annotations

import numpy as np
import torch

from defense.rules.gather import Gathered, mean_of
from defense.rules.geometry import lowest


def aggregate(
    updates: Gathered,
    rng: np.random.Generator,
    *,
    f: int,
    iterations: int = 1,
    coordinates: int = 10_000,
    filtering: float = 1.0,
) -> dict[str, torch.Tensor]:
    """The weighted mean of the clients that every iteration keeps. Parameters: DncConfig."""
    total = sum(updates.size(name) for name in updates.names)
    times_kept_N = torch.zeros(len(updates), dtype=torch.int64)
    for _ in range(iterations):
        drawn = np.sort(rng.choice(total, size=min(coordinates, total), replace=False, shuffle=False))
        scores_N = outlier_scores(_columns(updates, torch.from_numpy(drawn)))
        times_kept_N[lowest(scores_N, len(updates) - int(filtering * f))] += 1
    return mean_of(updates, torch.nonzero(times_kept_N == times_kept_N.max())[:, 0].tolist())


def outlier_scores(rows_NW: torch.Tensor) -> torch.Tensor:
    """Squared projection (N,) of each centred row on the top right singular direction.

    By the eigenvectors of the Gram matrix of the rows: with the singular value s and left singular vector u, the
    projections are s u.
    """
    centred_NW = rows_NW - rows_NW.mean(0)
    squares_N, left_NN = torch.linalg.eigh(centred_NW @ centred_NW.T)
    return squares_N[-1] * left_NN[:, -1].square()


def _columns(updates: Gathered, drawn: torch.Tensor) -> torch.Tensor:
    """The values (N, W) at ascending positions in the concatenation of all tensors in order of name."""
    parts, start = [], 0
    for name in updates.names:
        end = start + updates.size(name)
        inside = drawn[(drawn >= start) & (drawn < end)] - start
        parts.append(updates.rows_NW(name, inside))
        start = end
    return torch.cat(parts, dim=1)
