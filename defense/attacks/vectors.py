"""Updates as rows of a matrix and back: colluding attacks are geometry. Shapes: M malicious clients, D values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

Delta = Mapping[str, torch.Tensor]
"""PEFT parameter name -> client minus global."""


def rows(deltas: Sequence[Delta]) -> torch.Tensor:
    """The deltas as (M, D) float64, tensors in order of name."""
    return torch.stack([torch.cat([delta[name].double().reshape(-1) for name in sorted(delta)]) for delta in deltas])


def tensors(row_D: torch.Tensor, like: Delta) -> dict[str, torch.Tensor]:
    """A row as tensors of the names and shapes of `like`."""
    names = sorted(like)
    parts = row_D.split([like[name].numel() for name in names])
    return {name: part.reshape(like[name].shape) for name, part in zip(names, parts, strict=True)}
