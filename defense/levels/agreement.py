"""How far each update of a round points the same way as the others. N clients."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from defense.rules.geometry import gram
from defense.rules.round_updates import RoundUpdates


def agreements(updates: RoundUpdates, masses: Sequence[float]) -> list[float]:
    """Cosine of each update to the mean of all others, each first brought to length 1; in order of client id.

    Args:
        updates: Deltas of a round.
        masses: How much each counts in the others' means, at least 0.

    An update of length 0, or one whose others have no mass, points nowhere: its cosine is 0.

    Example: of (1, 0), (1, 0) and (-1, 0) with equal masses the first two cancel the third for each other: 0, 0, -1.
    """
    gram_NN = gram(updates)
    lengths_N = gram_NN.diagonal().sqrt()
    unit_NN = torch.nan_to_num(gram_NN / lengths_N[:, None] / lengths_N[None, :], nan=0.0)
    return [_to_others(unit_NN, torch.tensor(list(masses), dtype=torch.float64), i) for i in range(len(updates))]


def _to_others(unit_NN: torch.Tensor, masses_N: torch.Tensor, own: int) -> float:
    others_N = masses_N.clone()
    others_N[own] = 0
    length = float((others_N @ unit_NN @ others_N).clamp(min=0).sqrt())
    return float(unit_NN[own] @ others_N) / length if length > 1e-9 * float(others_N.sum()) else 0.0
