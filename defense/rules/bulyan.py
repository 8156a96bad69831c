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
    closest_CW = ordering((rows_TW - median(rows_TW)).abs())[:count]
    kept_CW, masses_CW = rows_TW.gather(0, closest_CW), masses_T[closest_CW]
    return (kept_CW * masses_CW).sum(0) / masses_CW.sum(0)
