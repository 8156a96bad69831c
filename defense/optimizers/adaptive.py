"""What FedAdagrad, FedYogi and FedAdam share (Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar and McMahan, ICLR 2021,
arXiv 2003.00295, algorithm 2).

With pseudo-gradient g: m <- beta1 m + (1 - beta1) g from m = 0, then v as the optimizer says from v = tau^2, and the adapter
moves by eta m / (sqrt(v) + tau). There is no bias correction, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from defense.rules.rule import Delta, Memory

_FIRST, _SECOND = "first_moment/", "second_moment/"


def step(
    state: Memory,
    pseudo_gradient: Delta,
    second_moment: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    learning_rate: float,
    beta1: float,
    tau: float,
) -> tuple[dict[str, torch.Tensor], Memory]:
    """The move, and both moments as the state.

    Args:
        second_moment: The new v from the old one and from g squared, value by value.
    """
    move, new = {}, {}
    for name, gradient in pseudo_gradient.items():
        start = torch.full_like(gradient, tau**2)
        m = beta1 * state.get(_FIRST + name, 0.0) + (1 - beta1) * gradient
        v = second_moment(state.get(_SECOND + name, start), gradient.square())
        move[name] = learning_rate * m / (v.sqrt() + tau)
        new |= {_FIRST + name: m, _SECOND + name: v}
    return move, new
