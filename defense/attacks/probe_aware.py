"""Probe-aware (evasion of a known classifier: Biggio et al., ECML PKDD 2013, arXiv 1708.06131).

The attacker holds a copy of the probe and changes what the probe reads by the least that brings its score below the threshold. A
linear probe reads v / |v|, so the deltas that pass are those at a large enough angle to its weights w, w . v <= b |v|; the
nearest of them lies in the plane of v and w, on the edge of that cone. For any other classifier the delta is blended with a
benign one, and halving finds the smallest benign share that is enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

_HALVINGS = 30
_SHORT = 0.01
"""Of the delta's norm."""


def nearest_below(delta_D: torch.Tensor, weight_D: torch.Tensor, bound: float) -> torch.Tensor:
    """The nearest vector v to `delta_D` with weight . v <= bound |v|; 0 where every direction scores too high.

    Where some directions pass and the nearest vector is 0, from which a probe reads no direction: a short vector along the edge.
    """
    length = float(weight_D.norm())
    if float(weight_D @ delta_D) <= bound * float(delta_D.norm()):
        return delta_D
    cosine = bound / length
    if cosine < -1:
        return torch.zeros_like(delta_D)
    unit_D = weight_D / length
    edge_D = cosine * unit_D + math.sqrt(1 - cosine * cosine) * _across(delta_D, unit_D)
    return max(_SHORT * float(delta_D.norm()), float(edge_D @ delta_D)) * edge_D


def _across(delta_D: torch.Tensor, unit_D: torch.Tensor) -> torch.Tensor:
    """The unit vector at a right angle to `unit_D` in the plane of both, or any such where they are parallel."""
    across_D = delta_D - float(delta_D @ unit_D) * unit_D
    if float(across_D.norm()) <= 1e-12 * float(delta_D.norm()):
        across_D = torch.zeros_like(unit_D)
        across_D[int(unit_D.abs().argmin())] = 1.0
        across_D -= float(across_D @ unit_D) * unit_D
    return across_D / across_D.norm()


def blended_below(
    delta_D: torch.Tensor, benign_D: torch.Tensor, score: Callable[[torch.Tensor], float], limit: float
) -> torch.Tensor:
    """(1 - s) delta + s benign with the smallest s found whose score is at most `limit`; the benign one if there is none."""
    if score(delta_D) <= limit:
        return delta_D
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if score(torch.lerp(delta_D, benign_D, middle)) <= limit else (middle, high)
    return torch.lerp(delta_D, benign_D, high)
