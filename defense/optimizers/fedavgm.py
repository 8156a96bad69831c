"""FedAvgM (Hsu, Qi and Brown 2019, arXiv 1909.06335): momentum on the server.

v <- beta v + g, and the adapter moves by eta v. A lasting pseudo-gradient is taken 1 / (1 - beta) times as far as without.
"""

from __future__ import annotations

import torch

from defense.rules.rule import Delta, Memory

_MOMENTUM = "momentum/"


def step(
    state: Memory, pseudo_gradient: Delta, *, learning_rate: float = 1.0, momentum: float = 0.9
) -> tuple[dict[str, torch.Tensor], Memory]:
    """eta v, and v as the state. Parameters: FedAvgMConfig."""
    velocity = {name: momentum * state.get(_MOMENTUM + name, 0.0) + tensor for name, tensor in pseudo_gradient.items()}
    move = {name: learning_rate * tensor for name, tensor in velocity.items()}
    return move, {_MOMENTUM + name: tensor for name, tensor in velocity.items()}
