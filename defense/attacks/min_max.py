"""Min-Max and Min-Sum (Shejwalkar and Houmansadr, NDSS 2021, "Manipulating the Byzantine", section IV.D; the aggregation rule
unknown).

Every attacker sends mean + gamma p, p one of three directions against the mean, with the largest gamma that hides it:

    Min-Max   max_i |mean + gamma p - x_i|       <=  max_ij |x_i - x_j|
    Min-Sum   sum_i |mean + gamma p - x_i|^2     <=  max_i sum_j |x_i - x_j|^2

The paper finds gamma by halving steps. Both bounds are quadratic in gamma, so here it is the root.
"""

from __future__ import annotations

import math

import torch

from defense.attacks.config import MinMaxConfig

_DIRECTIONS = {
    "std": lambda rows_MD: -rows_MD.std(0, correction=0),
    "unit": lambda rows_MD: -rows_MD.mean(0) / (rows_MD.mean(0).norm() or 1.0),
    "sign": lambda rows_MD: -rows_MD.mean(0).sign(),
}


def min_max(rows_MD: torch.Tensor, config: MinMaxConfig) -> torch.Tensor:
    """The farthest point along p that is no farther from any row than two rows are apart, (D,)."""
    mean_D, p_D = rows_MD.mean(0), _DIRECTIONS[config.perturbation](rows_MD)
    away_MD, farthest = mean_D - rows_MD, float(_squared_distances(rows_MD).max())
    roots = [_root(float(p_D @ p_D), 2 * float(p_D @ row_D), float(row_D @ row_D) - farthest) for row_D in away_MD]
    return mean_D + min(roots) * p_D


def min_sum(rows_MD: torch.Tensor, config: MinMaxConfig) -> torch.Tensor:
    """The farthest point along p whose squared distances sum to no more than those of the row with the largest sum, (D,)."""
    mean_D, p_D = rows_MD.mean(0), _DIRECTIONS[config.perturbation](rows_MD)
    most = float(_squared_distances(rows_MD).sum(1).max())
    around = float((mean_D - rows_MD).square().sum())  # the linear term is 0: the differences from a mean sum to 0
    return mean_D + _root(len(rows_MD) * float(p_D @ p_D), 0.0, around - most) * p_D


def _squared_distances(rows_MD: torch.Tensor) -> torch.Tensor:
    return torch.stack([(rows_MD - row_D).square().sum(1) for row_D in rows_MD])


def _root(a: float, b: float, c: float) -> float:
    """The larger root of a x^2 + b x + c with c <= 0, hence at least 0; 0 without a direction."""
    if a <= 0:
        return 0.0
    return max(0.0, (-b + math.sqrt(max(0.0, b * b - 4 * a * c))) / (2 * a))
