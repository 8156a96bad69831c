"""Copies: how many updates of a round go an update's own way, so that a group that agrees on one counts no more than others do.

Attackers that optimise one update together all send it, or nearly. Honest clients learn from data of their own: what they have in
common with one another is what the round has in common. Shapes: N clients, P of them that all are compared with.
"""

from __future__ import annotations

import torch

from defense.rules.geometry import median, norms
from defense.rules.round_updates import RoundUpdates

_ALIKE = 1e-9
"""Where most pairs are this near to cosine 1, what is left is rounding."""
_MOST_PEERS = 256
"""Updates that each one is compared with. A group counts by its part of the round, which so many show to a few percent."""


def copies(updates: RoundUpdates) -> list[float]:
    """How many updates each one stands for, itself included, from 1 to N; in order of client id.

    Were every update of what all have in common and of an own part, the median c of the cosines over all pairs would be the
    common part of an update's squared length, and (c_ij - c) / (1 - c) the cosine of the own parts of i and j. Its square is
    the part of i's own squared length that lies along j's: so much of a copy is one of the other, and none where the cosine is
    negative. A pair like most pairs is no copy, two equal updates are whole ones.

    In a round of more than 256 clients each is compared with 256, which lie evenly in order of id and stand for all: so the
    time grows with the number of clients, not with its square.
    """
    num_clients = len(updates)
    peers_P = torch.linspace(0, num_clients - 1, min(num_clients, _MOST_PEERS)).round().long()
    cosines_NP = _cosines(updates, peers_P)
    is_other_NP = torch.arange(num_clients)[:, None] != peers_P
    if not bool(is_other_NP.any()):
        return [1.0] * num_clients
    usual = max(0.0, float(median(cosines_NP[is_other_NP])))
    if 1 - usual <= _ALIKE:
        return [1.0] * num_clients
    own_NP = ((cosines_NP - usual) / (1 - usual)).clamp(min=0) * is_other_NP
    found_N, asked_N = own_NP.square().sum(1), is_other_NP.sum(1)
    return (1 + found_N * (num_clients - 1) / asked_N).tolist()


def one_of_many(copies_N: list[float]) -> list[float]:
    """Weights in (0, 1]: 1 for a client with as many copies as half of the clients have, or fewer; 1/k with k times as many.

    Example: copies 1, 1, 1.5, 3, 3, whose median is 1.5: weights 1, 1, 1, 0.5, 0.5.
    """
    usual = sorted(copies_N)[(len(copies_N) - 1) // 2]
    return [min(1.0, usual / count) for count in copies_N]


def _cosines(updates: RoundUpdates, peers_P: torch.Tensor) -> torch.Tensor:
    """Cosine of each update to each peer, (N, P) float64; 0 where one of them has length 0."""
    dots_NP = torch.from_numpy(sum(rows_NW.numpy() @ rows_NW[peers_P].numpy().T for _, _, rows_NW in updates.blocks()))
    norms_N = norms(updates)
    lengths_NP = norms_N[:, None] * norms_N[peers_P]
    return torch.where(lengths_NP > 0, dots_NP / lengths_NP, 0.0).clamp(-1, 1)
