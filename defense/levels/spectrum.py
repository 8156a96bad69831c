"""Spectrum: whether an update is noise (our own; no paper's).

Gradients of a batch are sums of few outer products, and what a client learns from them lies in few directions of each LoRA
factor. Noise of the same length fills all directions alike; neither a norm bound nor a comparison with the other clients tells
it from a client with a task of its own. Stateless. It stops no attacker that gives the noise an honest spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from defense.levels.level import Bounded, Level
from defense.settings import Settings

if TYPE_CHECKING:
    import torch  # which the settings must not load

FLATNESS = "flatness"
"""How much the update's spectrum looks like that of noise, which has about 1."""


class SpectrumSettings(Settings):
    """How much an update's spectrum may look like that of noise."""

    max_flatness: PositiveFloat | None = None
    """Flatness from which on an update weighs 0 (1: that of noise); None: from the server's reference clients."""


def flatness(delta: Mapping[str, torch.Tensor]) -> float:
    """Effective rank of an update's matrices over that of Gaussian noise of their shape; the mean, by their squared length.

    The effective rank of M (m, n) is the participation ratio of its squared singular values, (tr G)^2 / tr(G^2) with G = M M^T:
    1 where one direction holds everything, min(m, n) where all hold the same. For Gaussian noise (tr G)^2 and tr(G^2) have the
    means mn (mn + 2) and mn (m + n + 1) (moments of a Wishart matrix).

    Args:
        delta: Client minus global; tensors of more than two dimensions are read as (first, all others).

    Returns:
        About 1 for noise of any length, at most (m + n + 1) / (max(m, n) + 2 / min(m, n)). 0 for an update that did not move.
        Vectors and matrices with a side of 1 say nothing; an update that moved and has no others is NaN: nothing is known of it.

    Example: the identity (2, 2): G = I, (tr G)^2 / tr(G^2) = 2, noise has 6 / 5, so 5 / 3. One entry alone: 1, so 5 / 6.
    """
    total, weighted = 0.0, 0.0
    for (rows, columns), matrices in _by_shape(delta).items():
        lengths, spreads = _moments(matrices)
        of_noise = (rows * columns + 2) / (rows + columns + 1)
        for length, spread in zip(lengths, spreads, strict=True):
            if spread > 0:
                total, weighted = total + length, weighted + length * (length**2 / spread) / of_noise
    if total:
        return weighted / total
    return math.nan if any(bool(tensor.any()) for tensor in delta.values()) else 0.0


def _by_shape(delta: Mapping[str, torch.Tensor]) -> dict[tuple[int, int], list[torch.Tensor]]:
    """The matrices of more than one direction that have equal shapes, in order of name."""
    found: dict[tuple[int, int], list[torch.Tensor]] = {}
    for name in sorted(delta):
        if delta[name].dim() < 2:
            continue
        matrix = delta[name].flatten(1)
        rows, columns = matrix.shape
        if min(rows, columns) > 1:
            found.setdefault((rows, columns), []).append(matrix)
    return found


def _moments(matrices: list[torch.Tensor]) -> tuple[list[float], list[float]]:
    """tr G and tr(G^2) of each of these matrices of one shape, in float64; at once, since a client has hundreds of small ones."""
    import torch  # which the settings must not load

    stacked = torch.stack(matrices).double()
    grams = stacked @ stacked.mT if stacked.shape[1] <= stacked.shape[2] else stacked.mT @ stacked
    return grams.diagonal(dim1=1, dim2=2).sum(1).tolist(), grams.square().sum((1, 2)).tolist()


LEVEL = Level(
    reads="spectrum",
    columns=(FLATNESS,),
    bounded=Bounded(
        column=FLATNESS,
        key="defense.spectrum.max_flatness",
        by_hand=lambda config, threshold: config.spectrum.max_flatness,  # noqa: ARG005
        unsafe=lambda benign: (1.0,),  # noqa: ARG005 - noise, whatever honest updates look like
        half_way="from limit",
    ),
    measure=lambda delta: {FLATNESS: flatness(delta)},
)
