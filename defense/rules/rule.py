"""What an aggregation rule is, what it is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Delta = Mapping[str, torch.Tensor]
"""PEFT parameter name -> client minus global, on the CPU."""

Memory = Mapping[str, torch.Tensor]
"""What a rule remembers from one aggregated round to the next; flat, so that it is a safetensors file. Empty at first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One client's part in a round: admitted, and of a weight above 0."""

    client_id: str
    delta: Delta
    num_samples: int
    """n: examples trained this round."""
    weight: float
    """w in (0, 1]."""
    bounded_mass: float | None = None
    """What `aggregation.max_share` leaves of n w; None: all of it."""

    def __post_init__(self) -> None:
        """Raises ValueError when the mass is not positive: such a client must not reach a rule."""
        if not self.mass > 0:
            raise ValueError(
                f"client {self.client_id} of mass {self.mass} (num_samples {self.num_samples} x weight {self.weight}) "
                "must not be added"
            )

    @property
    def mass(self) -> float:
        """n w, the client's part in every mean."""
        return self.num_samples * self.weight if self.bounded_mass is None else self.bounded_mass


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """A round's outcome."""

    delta: dict[str, torch.Tensor]
    """The pseudo-gradient in float64: the global adapter moves by it."""
    memory: Memory
    """What the rule is to be given in the next round."""
    num_attackers: int | None
    """f' that the rule assumed, at most `aggregation.f`; None when it assumes none."""
    error: float | None = None
    """Relative error of the mean of B A, in the Frobenius norm over all modules; None when that is not approximated."""


@dataclass(frozen=True, slots=True)
class Rule:
    """An aggregation rule as three pure functions; see the package's docstring."""

    init: Callable[[], Any]
    add: Callable[[Any, Update], Any]
    finish: Callable[[Any, Memory, np.random.Generator], Aggregate]
