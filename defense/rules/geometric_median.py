"""Geometric median by the smoothed Weiszfeld iteration (Pillutla, Kakade and Harchaoui, IEEE Transactions on Signal
Processing 2022, arXiv 1912.13445, algorithm 2), run to a tolerance.

It minimises sum_i n_i w_i |z - x_i|. Each step moves z to the mean of the updates weighted by n w / max(nu, |z - x_i|).
z stays a mean of the updates, z = sum_i c_i x_i, so the iteration runs on the shares c alone: with the inner products G of
the updates, |z - x_i|^2 = c.Gc - 2 (Gc)_i + G_ii.
"""

from __future__ import annotations

import torch

from defense.rules.config import GeometricMedianConfig
from defense.rules.geometry import difference_gram
from defense.rules.round_updates import RoundUpdates


def aggregate(updates: RoundUpdates, *, settings: GeometricMedianConfig) -> dict[str, torch.Tensor]:
    """The geometric median of the updates, weighted by n w."""
    gram_NN = difference_gram(updates)
    shares_N = start_N = updates.masses_N / updates.masses_N.sum()
    for _ in range(settings.max_iterations):
        towards_N = gram_NN @ shares_N
        lengths_N = (shares_N @ towards_N - 2 * towards_N + gram_NN.diagonal()).clamp(min=0).sqrt()
        pulls_N = start_N / lengths_N.clamp(min=settings.smoothing)
        before_N, shares_N = shares_N, pulls_N / pulls_N.sum()
        if ((shares_N - before_N).abs() <= settings.tolerance * before_N).all():
            break
    return updates.combine(shares_N)
