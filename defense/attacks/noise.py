"""Noise in place of an update: the Gaussian attack (Blanchard et al., NeurIPS 2017, arXiv 1703.02757, experiments) and the
free rider (Lin, Du and Liu 2019, arXiv 1911.12560; Fraboni, Vidal and Lorenzi, AISTATS 2021, arXiv 2006.11901).

Blanchard et al. draw from a wide Gaussian; here the noise of each tensor has the norm that an honest update has there, so
that no bound on norms sees it. A free rider sends back what it was sent, disguised by a little noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from defense.attacks.vectors import Delta


def gaussian(delta: Delta, factor: float, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Noise whose expected squared norm is (factor x norm)^2 in each tensor; tensors that did not move stay."""
    return {name: _normal(delta[name].shape, rng) * (factor * _rms(delta[name])) for name in sorted(delta)}


def disguise(shapes: Mapping[str, tuple[int, ...]], noise: float, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """A free rider's delta: noise of one standard deviation in every value."""
    return {name: _normal(shapes[name], rng) * noise for name in sorted(shapes)}


def _normal(shape: tuple[int, ...], rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(shape)))


def _rms(tensor: torch.Tensor) -> float:
    return float(tensor.double().norm()) / math.sqrt(tensor.numel())
