"""Bulyan of Krum (El Mhamdi, Guerraoui and Rouault, ICML 2018, arXiv 1802.07927).

First theta = n - 2f clients are selected: Krum runs on the clients that remain, its choice moves to the selection, and so
on. Then in each coordinate the beta = theta - 2f values closest to the selection's median are averaged, weighted by n w.
The median is a selection and unweighted. The paper needs n >= 4f + 3. With f < 2 Krum's formula gives its last runs fewer
than one neighbour; they use one, as long as another client remains. The closest two clients then tie, and the lower client
id goes first.
"""

from __future__ import annotations

import torch

from defense.rules.geometry import lowest, median, ordering, squared_distances
from defense.rules.krum import scores
from defense.rules.order_statistics import ranked
from defense.rules.round_updates import RoundUpdates


def aggregate(updates: RoundUpdates, *, f: int) -> dict[str, torch.Tensor]:
    """The mean around the median of the selected updates.

    Raises:
        ValueError: 4 f is not below the number of clients, so that nothing would be averaged.
    """
    if not 0 <= 4 * f < len(updates):
        raise ValueError(f"Bulyan over {len(updates)} clients cannot bear f={f}")
    chosen = select(squared_distances(updates), f)
    masses_T = updates.masses_N[chosen]
    return updates.by_coordinate(lambda rows_NW: mean_around_median(rows_NW[chosen], masses_T, len(chosen) - 2 * f))


def select(distances_NN: torch.Tensor, f: int) -> list[int]:
    """The n - 2f clients that iterated Krum with removal takes, ascending."""
    remaining, chosen = list(range(len(distances_NN))), []
    for _ in range(len(distances_NN) - 2 * f):
        best = lowest(scores(distances_NN[remaining][:, remaining], f), 1)[0]
        chosen.append(remaining.pop(best))
    return sorted(chosen)


def mean_around_median(rows_TW: torch.Tensor, masses_T: torch.Tensor, count: int) -> torch.Tensor:
    """Weighted mean (W,) of the `count` values of each column closest to its median; of equal ones the lower row."""
    distances_TW = (rows_TW - median(rows_TW)).abs()
    kept_TW = distances_TW <= ranked(distances_TW, count - 1, count)
    if (tied_W := kept_TW.sum(0) > count).any():  # as many as there are places, lower rows first
        closest_CX = ordering(distances_TW[:, tied_W])[:count]
        kept_TW[:, tied_W] = torch.zeros_like(kept_TW[:, tied_W]).scatter_(0, closest_CX, True)
    masses_TW = masses_T[:, None] * kept_TW
    return (rows_TW * masses_TW).sum(0) / masses_TW.sum(0)
