"""No server optimizer: the global adapter moves by the pseudo-gradient itself, as in FedAvg. The paper's way."""

from __future__ import annotations

import torch

from defense.rules.rule import Delta, Memory


def step(state: Memory, pseudo_gradient: Delta) -> tuple[dict[str, torch.Tensor], Memory]:
    """The pseudo-gradient, and the state as it is."""
    return dict(pseudo_gradient), state
