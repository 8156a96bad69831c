"""Coordinate-wise trimmed mean (Yin, Chen, Ramchandran and Bartlett, ICML 2018, arXiv 1803.01498, definition 2), weighted by w.

Every client carries the mass w. In each coordinate the values are sorted, the share f/n of the total mass is cut from
either end, and the rest is averaged by mass; a client at a cut keeps the part of its mass that lies inside.
With equal weights: the f lowest and the f highest values are dropped, and the others are averaged.
"""

from __future__ import annotations

import torch

from defense.rules.geometry import UNIT, ordering, whole_masses
from defense.rules.order_statistics import ranked
from defense.rules.round_updates import RoundUpdates


def aggregate(updates: RoundUpdates, *, f: int) -> dict[str, torch.Tensor]:
    """The weighted trimmed mean of every coordinate; no client's number of samples counts.

    Raises:
        ValueError: 2 f is not below the number of clients.
    """
    if not 0 <= 2 * f < len(updates):
        raise ValueError(f"a mean of {len(updates)} clients cannot be trimmed of f={f} on either side")
    masses_N = whole_masses(updates.weights_N)
    if masses_N.eq(masses_N[0]).all():
        return updates.by_coordinate(lambda rows_NW: ranked(rows_NW, f, len(updates) - f).double().mean(0))
    return updates.by_coordinate(lambda rows_NW: weighted_trimmed_mean(rows_NW, masses_N, f))


def weighted_trimmed_mean(rows_NW: torch.Tensor, masses_N: torch.Tensor, f: int) -> torch.Tensor:
    """Trimmed mean (W,) of each column of `rows_NW`; `masses_N` int64, positive.

    Example: values 1, 2, 3, 90 of masses 2, 1, 1, 2 with f=1: n=4, so 6/4 = 1.5 is cut from either end. Left are 0.5 of
    the first, the second and third whole, and 0.5 of the last.
    """
    order_NW = ordering(rows_NW)
    ordered_NW = rows_NW.gather(0, order_NW).double()
    num_clients, total = len(masses_N), int(masses_N.sum())
    # In units of 1/n, so that the cuts f total / n are whole numbers too.
    ends_NW = (masses_N[order_NW].cumsum(0) * num_clients).clamp(f * total, (num_clients - f) * total)
    first_1W = torch.full_like(ends_NW[:1], f * total)
    kept_NW = torch.diff(ends_NW, dim=0, prepend=first_1W).double() / (num_clients * UNIT)
    return (ordered_NW * kept_NW).sum(0) / kept_NW.sum(0)
