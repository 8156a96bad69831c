"""FoolsGold (Fung, Yoon and Beschastnikh, RAID 2020, "The Limitations of Federated Learning in Sybil Settings"; first
arXiv 1808.04866, "Mitigating Sybils in Federated Learning Poisoning", algorithm 1).

Each client's updates are summed over the rounds it took part in. Clients whose sums point the same way are taken for
sybils: trust falls with the largest cosine to another client of the round, "pardoned" where the other client is the more
conspicuous. Trust multiplies n w. The paper weighs the features of a classifier's output layer by importance; a LoRA
has no such layer, so all values count alike. If all clients are alike, all are distrusted, and the adapter does not move.
"""

from __future__ import annotations

import torch

from defense.rules.config import FoolsGoldConfig
from defense.rules.geometry import cosines
from defense.rules.round_updates import RoundUpdates, WeightedUpdate
from defense.tensors import Tensors

_ALIKE = 1e-9
"""A client this close to cosine 1 with another one is its copy: a smaller difference is rounding, which must not decide."""


def aggregate(updates: RoundUpdates, *, memory: Tensors, settings: FoolsGoldConfig) -> tuple[dict[str, torch.Tensor], Tensors]:
    """The mean of the updates weighted by n w times trust, and the histories.

    Args:
        memory: "client id/tensor name" -> sum of that client's updates, float32, for every client ever aggregated.
    """
    histories = [_history(updates, index, memory) for index in range(len(updates))]
    masses_N = updates.masses_N * trust(cosines(RoundUpdates(tuple(histories))), settings.confidence)
    total = masses_N.sum()
    delta = updates.combine(masses_N / total if total > 0 else masses_N)
    new = {_key(history.client_id, name): tensor for history in histories for name, tensor in history.delta.items()}
    return delta, {**memory, **new}


def trust(cosines_NN: torch.Tensor, confidence: float) -> torch.Tensor:
    """Trust in [0, 1] of each client, (N,), from the cosines of the histories.

    A client whose history is opposed or orthogonal to all others is trusted fully.
    """
    similar_NN = cosines_NN.clone().fill_diagonal_(0)
    worst_N = similar_NN.max(dim=1).values.clamp(min=0)
    pardon_NN = torch.where(worst_N > worst_N[:, None], worst_N[:, None] / worst_N, 1.0)
    alpha_N = (1 - (similar_NN * pardon_NN).max(dim=1).values).clamp(0, 1)
    alpha_N = torch.where(alpha_N > _ALIKE, alpha_N, 0.0)
    if not alpha_N.any():
        return alpha_N
    alpha_N = alpha_N / alpha_N.max()
    return (confidence * (torch.logit(alpha_N) + 0.5)).clamp(0, 1)


def _history(updates: RoundUpdates, index: int, memory: Tensors) -> WeightedUpdate:
    """The sum of a client's updates, this round's included, in the place of its update."""
    update = updates.updates[index]
    sums = {name: memory.get(_key(update.client_id, name), 0) + tensor for name, tensor in updates.row(index).items()}
    kept = {name: tensor.float() for name, tensor in sums.items()}
    return WeightedUpdate(client_id=update.client_id, delta=kept, num_samples=update.num_samples, weight=update.weight)


def _key(client_id: str, name: str) -> str:
    return f"{client_id}/{name}"
