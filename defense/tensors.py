"""Tensors by parameter name, and the same as rows of a matrix. Shapes: M updates, D values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

Tensors = Mapping[str, torch.Tensor]
"""PEFT parameter name -> CPU tensor: an adapter, a delta, or what a rule or an optimizer remembers."""


def rows(deltas: Sequence[Tensors]) -> torch.Tensor:
    """The deltas as (M, D) float64, tensors in order of name."""
    return torch.stack([torch.cat([delta[name].double().reshape(-1) for name in sorted(delta)]) for delta in deltas])


def from_row(row_D: torch.Tensor, like: Tensors) -> dict[str, torch.Tensor]:
    """A row as tensors of the names and shapes of `like`."""
    names = sorted(like)
    parts = row_D.split([like[name].numel() for name in names])
    return {name: part.reshape(like[name].shape) for name, part in zip(names, parts, strict=True)}
