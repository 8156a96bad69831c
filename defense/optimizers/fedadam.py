"""FedAdam (Reddi et al., ICLR 2021, arXiv 2003.00295, algorithm 2): v <- beta2 v + (1 - beta2) g^2."""

from __future__ import annotations

import torch

from defense.optimizers import adaptive
from defense.rules.rule import Delta, Memory


def step(
    state: Memory,
    pseudo_gradient: Delta,
    *,
    learning_rate: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
) -> tuple[dict[str, torch.Tensor], Memory]:
    """The move and the moments; see `adaptive`. Parameters: FedAdamConfig."""

    def second_moment(v: torch.Tensor, squared: torch.Tensor) -> torch.Tensor:
        return beta2 * v + (1 - beta2) * squared

    return adaptive.step(state, pseudo_gradient, second_moment, learning_rate=learning_rate, beta1=beta1, tau=tau)
