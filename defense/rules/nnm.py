"""Nearest-neighbour mixing, NNM, a pre-aggregation (Allouah, Farhadkhani, Guerraoui, Gupta, Pinot and Stephan, AISTATS 2023,
arXiv 2302.01772, algorithm 2).

Each update is replaced by the mean of the n - f updates nearest to it, itself included; of equal distances the lower
client id goes first. The mean is weighted by n w, and the mixed update keeps its client's n and w in the rule that
follows. The paper needs f < n / 2.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from defense.rules.geometry import ordering, squared_distances
from defense.rules.round_updates import RoundUpdates


def mix(updates: RoundUpdates, *, f: int) -> RoundUpdates:
    """The updates with each replaced by its mixture."""
    return replace(updates, mixing_NN=mixing(squared_distances(updates), updates.masses_N, f))


def mixing(distances_NN: torch.Tensor, masses_N: torch.Tensor, f: int) -> torch.Tensor:
    """Shares (N, N) of the clients in each mixture; every row sums to 1."""
    count = len(masses_N)
    own_first_NN = distances_NN.clone().fill_diagonal_(-1)  # symmetric: a column is a client's distances, too
    nearest_NK = ordering(own_first_NN)[: count - f].T
    shares_NN = torch.zeros(count, count, dtype=torch.float64).scatter_(1, nearest_NK, 1.0) * masses_N
    return shares_NN / shares_NN.sum(1, keepdim=True)
