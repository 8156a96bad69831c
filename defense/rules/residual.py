"""Residual-based reweighting (Fu, Xie, Li and Chen 2019, "Attack-Resistant Federated Learning with Residual-based
Reweighting", arXiv 1912.11464, section 3), one reweighting of iteratively reweighted least squares, IRLS.

In each coordinate the clients' values are put in order and a line is fitted through value against rank by repeated
medians (Siegel 1982). s is 1.4826 (1 + 5 / (n - 1)) times the median of the residuals without the smallest, and h the leverage
of a rank. A residual r has the trust min(1, K sqrt(1 - h) s / |r|) with K = lambda sqrt(2 / n). The line's value replaces a value
whose trust is below the threshold. The trust of a client is the sum over all coordinates of its trust there times the
coordinate's standard deviation of trust; divided by the largest and squared, it multiplies n w in the mean.

The line's intercept is the median of value minus slope times rank, Siegel's; the authors' code has the median value minus slope
times the median rank. A residual within float32's rounding of the largest value counts as 0, where their code adds 1e-7 to s. Two
clients or fewer make no line: a plain mean. The slopes take time quadratic in the number of clients.
"""

from __future__ import annotations

import math

import torch

from defense.rules.config import ResidualConfig
from defense.rules.geometry import ascending, median, ordering
from defense.rules.round_updates import RoundUpdates

_ROUNDING = 1e-6


def aggregate(updates: RoundUpdates, *, settings: ResidualConfig) -> dict[str, torch.Tensor]:
    """The mean of the corrected updates, weighted by n w times the clients' trust."""
    if len(updates) < 3:
        return updates.mean()
    trust_N = torch.zeros(len(updates), dtype=torch.float64)
    slopes = []
    for _, _, rows_NW in updates.blocks():
        slopes.append(repeated_median_slope(ascending(rows_NW)))
        trust_NW, _ = judge(rows_NW, slopes[-1], settings.confidence)
        trust_N += (trust_NW * trust_NW.std(0)).sum(1)
    largest = trust_N.max()
    masses_N = updates.masses_N * (trust_N / largest).square() if largest > 0 else updates.masses_N
    shares_N, next_slope = masses_N / masses_N.sum(), iter(slopes)
    return updates.by_coordinate(lambda rows_NW: shares_N @ correct(rows_NW.double(), next(next_slope), settings))


def correct(rows_NW: torch.Tensor, slope_W: torch.Tensor, settings: ResidualConfig) -> torch.Tensor:
    """The values (N, W); the line's value replaces each that is trusted too little."""
    trust_NW, line_NW = judge(rows_NW, slope_W, settings.confidence)
    return torch.where(trust_NW < settings.threshold, line_NW, rows_NW)


def judge(rows_NW: torch.Tensor, slope_W: torch.Tensor, confidence: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Trust in [0, 1] of each value and the line's value in its place, both (N, W); N of 3 and more."""
    count = len(rows_NW)
    order_NW = ordering(rows_NW)
    ordered_NW = rows_NW.gather(0, order_NW)
    ranks_N1 = torch.arange(count, dtype=torch.float64)[:, None]
    line_NW = median(ordered_NW - slope_W * ranks_N1) + slope_W * ranks_N1
    residuals_NW = (ordered_NW - line_NW).abs()
    residuals_NW = torch.where(residuals_NW > _ROUNDING * ordered_NW.abs().amax(0), residuals_NW, 0.0)
    spread_W = 1.4826 * (1 + 5 / (count - 1)) * median(ascending(residuals_NW)[1:])
    centred_N1 = ranks_N1 - ranks_N1.mean()
    leverage_N1 = 1 / count + centred_N1.square() / centred_N1.square().sum()
    bound_NW = confidence * math.sqrt(2 / count) * (1 - leverage_N1).sqrt() * spread_W
    trust_NW = torch.where(residuals_NW > bound_NW, bound_NW / residuals_NW, 1.0)
    return _unsorted(trust_NW, order_NW), _unsorted(line_NW, order_NW)


def repeated_median_slope(ordered_NW: torch.Tensor) -> torch.Tensor:
    """Median over the points of the median slope from each to the others, (W,); point i has rank i."""
    count = len(ordered_NW)
    ranks = torch.arange(count, dtype=torch.float64)
    medians = []
    for i in range(count):
        others = ranks != i
        slopes = (ordered_NW[others] - ordered_NW[i]) / (ranks[others] - i)[:, None]
        medians.append(median(slopes))
    return median(torch.stack(medians))


def _unsorted(values_NW: torch.Tensor, order_NW: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(values_NW).scatter_(0, order_NW, values_NW)
