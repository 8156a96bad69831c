"""Krum (Blanchard, El Mhamdi, Guerraoui and Stainer, NeurIPS 2017, arXiv 1703.02757, section 4).

The score of a client is the sum of the SQUARED L2 distances to its n - f - 2 nearest OTHERS; the client of lowest score
is the aggregate. Of equal scores the lowest client id wins. The paper needs n >= 2f + 3. Where fewer clients are admitted
and f = 0, the nearest other client counts, if there is one.
"""

from __future__ import annotations

import torch

from defense.rules.geometry import ascending, lowest, squared_distances
from defense.rules.round_updates import RoundUpdates


def aggregate(updates: RoundUpdates, *, f: int) -> dict[str, torch.Tensor]:
    """The update of lowest score, as it is."""
    return updates.mean_of(lowest(scores(squared_distances(updates), f), 1))


def scores(distances_NN: torch.Tensor, f: int) -> torch.Tensor:
    """Krum's score of each client, (N,), from squared distances between any two."""
    count = len(distances_NN)
    neighbours = min(count - 1, max(1, count - f - 2))
    others_NN = distances_NN.clone().fill_diagonal_(torch.inf)  # symmetric: a column is a client's distances, too
    return ascending(others_NN)[:neighbours].sum(0)
