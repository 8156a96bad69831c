"""Distances, cosines and order statistics that rules share. Unweighted: every admitted client counts once.

Norms are never expanded over float32 or over values with a common part: Gram matrices are sums over blocks in float64,
and distances are taken between differences from one of the clients. Shapes: N clients.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from defense.rules.order_statistics import ranked
from defense.rules.round_updates import RoundUpdates
from defense.tensors import Tensors

UNIT = 1 << 30
"""Mass of the heaviest client. Sums of mass times n^2 must stay below 2^63: up to 92,000 clients."""

_ROUNDING = 1e-14
"""Relative to the squared lengths of both: what is left of a distance of 0. It must not decide between copies of an update."""


def norms(updates: RoundUpdates) -> torch.Tensor:
    """L2 norm of each update over all tensors, (N,) float64."""
    total_N = torch.zeros(len(updates), dtype=torch.float64)
    for _, _, rows_NW in updates.blocks():
        total_N += rows_NW.square().sum(1)
    return total_N.sqrt()


def dots(updates: RoundUpdates, vector: Tensors) -> torch.Tensor:
    """Inner product of each update with a vector, given as float64 tensors by name; (N,) float64."""
    total_N = torch.zeros(len(updates), dtype=torch.float64)
    for name, part, rows_NW in updates.blocks():
        total_N += rows_NW @ vector[name].reshape(-1)[part]
    return total_N


def gram(updates: RoundUpdates) -> torch.Tensor:
    """Inner products of the updates, (N, N) float64, symmetric."""
    return _inner_products(rows_NW for _, _, rows_NW in updates.blocks())


def difference_gram(updates: RoundUpdates) -> torch.Tensor:
    """Inner products of the updates' differences from a common vector, (N, N) float64, symmetric.

    In each block of coordinates the vector is the client's of median norm there. What the updates have in common cancels first,
    and an attacker of huge norm costs the others no digits: attackers that are a minority cannot be that client. Distances do
    not depend on the vector.
    """
    return _inner_products(_moved(rows_NW) for _, _, rows_NW in updates.blocks())


def _moved(rows_NW: torch.Tensor) -> torch.Tensor:
    """The rows' differences from the one of median norm, in their place."""
    by_norm = ordering(torch.linalg.vector_norm(rows_NW, dim=1))
    return rows_NW.sub_(rows_NW[int(by_norm[(len(rows_NW) - 1) // 2])].clone())


def _inner_products(blocks: Iterable[torch.Tensor]) -> torch.Tensor:
    """Inner products (N, N) of rows that come in blocks (N, W). NumPy sees the symmetry and takes half of torch's time."""
    total_NN = torch.from_numpy(sum(rows_NW.numpy() @ rows_NW.numpy().T for rows_NW in blocks))
    return (total_NN + total_NN.T) / 2


def squared_distances(updates: RoundUpdates) -> torch.Tensor:
    """Squared L2 distance between any two updates, (N, N) float64; zero on the diagonal, and where it is not above rounding."""
    gram_NN = difference_gram(updates)
    squares_N = gram_NN.diagonal()
    sums_NN = squares_N[:, None] + squares_N
    distances_NN = sums_NN - 2 * gram_NN
    return torch.where(distances_NN > _ROUNDING * sums_NN, distances_NN, 0.0).fill_diagonal_(0)


def cosines(updates: RoundUpdates) -> torch.Tensor:
    """Cosine between any two updates, (N, N) float64 in [-1, 1]; an update of zeros has cosine 0 to all."""
    gram_NN = gram(updates)
    norms_N = gram_NN.diagonal().sqrt()
    lengths_NN = norms_N[:, None] * norms_N
    return torch.where(lengths_NN > 0, gram_NN / lengths_NN, 0.0).clamp(-1, 1)


def ascending(values: torch.Tensor) -> torch.Tensor:
    """The values in ascending order along the first axis. NumPy sorts such short columns ten times as fast as torch."""
    return torch.from_numpy(np.sort(values.numpy(), axis=0))


def ordering(values: torch.Tensor) -> torch.Tensor:
    """Indices that put values in ascending order along the first axis; of equal values the lower index goes first."""
    return torch.from_numpy(np.argsort(values.numpy(), axis=0, kind="stable"))


def lowest(values_N: torch.Tensor, count: int) -> list[int]:
    """Indices of the lowest values, ascending; of equal values the lower index goes first."""
    return sorted(ordering(values_N)[:count].tolist())


def median(values: torch.Tensor) -> torch.Tensor:
    """Unweighted median along the first axis in float64: the middle value, or the mean of the middle pair."""
    count = len(values)
    middle = ranked(values, (count - 1) // 2, count // 2 + 1).double()
    return (middle[0] + middle[-1]) / 2


def whole_masses(weights_N: torch.Tensor) -> torch.Tensor:
    """Masses (N,) int64 in proportion to positive weights, the heaviest UNIT and none below 1; equal weights stay equal.

    With whole numbers order statistics cut exactly between clients. Summed in floating point, n weights of 0.1 are not n times
    0.1, and a client that should be trimmed would keep a sliver of mass that an outlier of any size could use.
    """
    return (weights_N / weights_N.max() * UNIT).round().long().clamp(min=1)
