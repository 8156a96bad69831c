"""Coordinate-wise median (Yin, Chen, Ramchandran and Bartlett, ICML 2018, arXiv 1803.01498, definition 1), weighted by w.

Every client carries the mass w. In each coordinate the values are sorted; the median is the value at which half of the
mass is reached, or the mean of two neighbours when the one ends exactly there. With equal weights: the middle value, or
the mean of the middle pair.
"""

from __future__ import annotations

import torch

from defense.rules import geometry
from defense.rules.round_updates import RoundUpdates


def aggregate(updates: RoundUpdates) -> dict[str, torch.Tensor]:
    """The weighted median of every coordinate; no client's number of samples counts."""
    masses_N = geometry.whole_masses(updates.weights_N)
    if masses_N.eq(masses_N[0]).all():
        return updates.by_coordinate(geometry.median)
    return updates.by_coordinate(lambda rows_NW: weighted_median(rows_NW, masses_N))


def weighted_median(rows_NW: torch.Tensor, masses_N: torch.Tensor) -> torch.Tensor:
    """Median (W,) of each column of `rows_NW`; `masses_N` int64, positive."""
    order_NW = geometry.ordering(rows_NW)
    ordered_NW = rows_NW.gather(0, order_NW).double()
    reached_NW = masses_N[order_NW].cumsum(0)
    total = masses_N.sum()
    first_1W = (2 * reached_NW < total).sum(0, keepdim=True)
    last_1W = (2 * reached_NW <= total).sum(0, keepdim=True)
    return (ordered_NW.gather(0, first_1W)[0] + ordered_NW.gather(0, last_1W)[0]) / 2
