"""Scaling (Bagdasaryan et al., AISTATS 2020, arXiv 1807.00459: model replacement) and sign flipping (Li et al., "RSA", AAAI
2019, arXiv 1811.03761).

Model replacement multiplies a poisoned update so that it survives averaging; by n / m it would replace the average. Sign
flipping sends an honest update times a negative factor, here -1, so that its norm is that of an honest one.
"""

from __future__ import annotations

import torch

from defense.attacks.vectors import Delta


def scaled(delta: Delta, factor: float) -> dict[str, torch.Tensor]:
    """The update times a factor; -1 flips its sign."""
    return {name: tensor * factor for name, tensor in delta.items()}
