"""How far each update of a round points the same way as the others, and what level consensus makes of it. N clients."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from defense.config import DefenseConfig
from defense.evidence import Agreement
from defense.levels import State, consensus, single_level
from defense.rules.gather import Gathered
from defense.rules.geometry import gram


def compare(config: DefenseConfig, state: State, updates: Gathered) -> tuple[list[Agreement], dict[str, float], State]:
    """Judge a round's clients by each other: their updates, with the weights above 0 that the other levels gave.

    A client counts among the others by its weight, unless it has pulled against them in the rounds before. A verdict that would
    put out half of them or more is none: a few identical updates against everybody else's can turn the mean of the others for
    each honest client. Then what was known before the round stands, and the round teaches nothing.
    """
    before = state.get("consensus", {})
    outcast = [consensus.is_outcast(before, item.client_id, config.consensus.min_cosine) for item in updates.updates]
    masses = [0.0 if out else item.weight for out, item in zip(outcast, updates.updates, strict=True)]
    cosines = agreements(updates, masses)
    found = [Agreement(client_id=item.client_id, cosine=c) for item, c in zip(updates.updates, cosines, strict=True)]
    weights, after = single_level("consensus", config)(before, found)
    if 2 * list(weights.values()).count(0.0) >= len(weights):
        after, weights = before, {item.client_id: 0.0 if out else 1.0 for out, item in zip(outcast, found, strict=True)}
    return found, weights, {**state, "consensus": after}


def agreements(updates: Gathered, masses: Sequence[float]) -> list[float]:
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
