"""How flat the spectrum of an update is: noise spreads over all directions of a matrix alike, what is learnt does not."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def flatness(delta: Mapping[str, torch.Tensor]) -> float:
    """Effective rank of an update's matrices over that of Gaussian noise of their shape; the mean, by their squared length.

    The effective rank of M (m, n) is the participation ratio of its squared singular values, (tr G)^2 / tr(G^2) with G = M M^T:
    1 where one direction holds everything, min(m, n) where all hold the same. For Gaussian noise (tr G)^2 and tr(G^2) have the
    means mn (mn + 2) and mn (m + n + 1) (moments of a Wishart matrix).

    Args:
        delta: Client minus global; tensors of more than two dimensions are read as (first, all others).

    Returns:
        About 1 for noise of any length, at most (m + n + 1) / (max(m, n) + 2 / min(m, n)). Vectors, matrices with a side of 1
        and those that did not move say nothing; where there are no others, 0.

    Example: the identity (2, 2): G = I, (tr G)^2 / tr(G^2) = 2, noise has 6 / 5, so 5 / 3. One entry alone: 1, so 5 / 6.
    """
    total, weighted = 0.0, 0.0
    for name in sorted(delta):
        matrix = delta[name].double().flatten(1) if delta[name].dim() > 1 else delta[name].new_zeros(0, 0)
        rows, columns = matrix.shape
        if min(rows, columns) < 2:
            continue
        gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
        length, spread = float(gram.trace()), float(gram.square().sum())
        if spread > 0:
            of_noise = (rows * columns + 2) / (rows + columns + 1)
            total, weighted = total + length, weighted + length * (length**2 / spread) / of_noise
    return weighted / total if total else 0.0
