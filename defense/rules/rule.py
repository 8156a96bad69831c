"""What an aggregation rule is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Delta = Mapping[str, torch.Tensor]
"""PEFT parameter name -> client minus global, float64 on the CPU."""


@dataclass(frozen=True, slots=True)
class Rule:
    """An aggregation rule as three functions; see the package's docstring."""

    init: Callable[[], Any]
    add: Callable[[Any, Delta, int, float], Any]
    finish: Callable[[Any], dict[str, torch.Tensor]]
