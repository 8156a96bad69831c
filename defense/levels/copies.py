"""Copies: how many updates of a round go an update's own way, so that a group that agrees on one counts no more than others do.

Attackers that optimise one update together all send it, or nearly. Honest clients learn from data of their own: what they have in
common with one another is what the round has in common. N clients.
"""

from __future__ import annotations

import torch

from defense.rules.geometry import cosines, median
from defense.rules.round_updates import RoundUpdates

_ALIKE = 1e-9
"""Where most pairs are this near to cosine 1, what is left is rounding."""


def copies(updates: RoundUpdates) -> list[float]:
    """How many updates each one stands for, itself included, from 1 to N; in order of client id.

    Were every update of what all have in common and of an own part, the median c of the cosines over all pairs would be the
    common part of an update's squared length, and (c_ij - c) / (1 - c) the cosine of the own parts of i and j. Its square is
    the part of i's own squared length that lies along j's: so much of a copy is one of the other, and none where the cosine is
    negative. A pair like most pairs is no copy, two equal updates are whole ones.
    """
    cosines_NN = cosines(updates)
    above, aside = torch.triu_indices(len(updates), len(updates), offset=1)
    pairs = cosines_NN[above, aside]
    usual = max(0.0, float(median(pairs))) if len(pairs) else 0.0
    if 1 - usual <= _ALIKE:
        return [1.0] * len(updates)
    alike_NN = ((cosines_NN - usual) / (1 - usual)).clamp(min=0).square().fill_diagonal_(1)
    return alike_NN.sum(1).tolist()


def one_of_many(copies_N: list[float]) -> list[float]:
    """Weights in (0, 1]: 1 for a client with as many copies as half of the clients have, or fewer; 1/k with k times as many.

    Example: copies 1, 1, 1.5, 3, 3, whose median is 1.5: weights 1, 1, 1, 0.5, 0.5.
    """
    usual = sorted(copies_N)[(len(copies_N) - 1) // 2]
    return [min(1.0, usual / count) for count in copies_N]
