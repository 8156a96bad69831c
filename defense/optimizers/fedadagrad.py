"""FedAdagrad (Reddi et al., ICLR 2021, arXiv 2003.00295, algorithm 2): v <- v + g^2, so steps only ever get shorter."""

from __future__ import annotations

import torch

from defense.optimizers import adaptive
from defense.rules.rule import Delta, Memory


def step(
    state: Memory, pseudo_gradient: Delta, *, learning_rate: float = 1e-3, beta1: float = 0.0, tau: float = 1e-3
) -> tuple[dict[str, torch.Tensor], Memory]:
    """The move and the moments; see `adaptive`. Parameters: FedAdagradConfig."""
    return adaptive.step(
        state, pseudo_gradient, lambda v, squared: v + squared, learning_rate=learning_rate, beta1=beta1, tau=tau
    )
