"""How far each update of a round points the same way as the others. N clients."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from defense.rules.geometry import dots, norms
from defense.rules.round_updates import RoundUpdates

_NOWHERE = 1e-7
"""Of all masses: the others' sum is no longer than this where they cancel, since its square is a difference of float64."""


def agreements(updates: RoundUpdates, masses: Sequence[float]) -> list[float]:
    """Cosine of each update to the mean of all others, each first brought to length 1; in order of client id.

    Args:
        updates: Deltas of a round.
        masses: How much each counts in the others' means, at least 0.

    With all of them in one sum, an update's own part is subtracted from it, so that the cost of a client does not grow with their
    number. An update of length 0, or one whose others have no mass, points nowhere: its cosine is 0.

    Example: of (1, 0), (1, 0) and (-1, 0) with equal masses the first two cancel the third for each other: 0, 0, -1.
    """
    lengths_N, masses_N = norms(updates), torch.tensor(list(masses), dtype=torch.float64)
    per_length_N = torch.where(lengths_N > 0, 1 / lengths_N, 0.0)
    total = updates.combine(masses_N * per_length_N)
    along_N = dots(updates, total) * per_length_N
    own_N = torch.where(lengths_N > 0, masses_N, 0.0)
    square = sum(float(tensor.square().sum()) for tensor in total.values())
    others_N = (square - 2 * own_N * along_N + own_N.square()).clamp(min=0).sqrt()
    points_N = (others_N > _NOWHERE * masses_N.sum()) & (lengths_N > 0)
    return torch.where(points_N, (along_N - own_N) / others_N, 0.0).tolist()
