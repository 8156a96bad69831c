"""Multi-Krum (Blanchard, El Mhamdi, Guerraoui and Stainer, NeurIPS 2017, arXiv 1703.02757, section 4): m = n - f.

The mean, weighted by n w, of the m clients of lowest Krum score; of equal scores the lower client id goes first.
"""

from __future__ import annotations

import torch

from defense.rules.geometry import lowest, squared_distances
from defense.rules.krum import scores
from defense.rules.round_updates import RoundUpdates


def aggregate(updates: RoundUpdates, *, f: int) -> dict[str, torch.Tensor]:
    """The weighted mean of the n - f updates of lowest score."""
    return updates.mean_of(lowest(scores(squared_distances(updates), f), len(updates) - f))
