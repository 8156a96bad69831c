"""An adapter state as one vector, so that a check or a difference is one operation whatever the number of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch


class StateVector:
    """Between a state's tensors and one vector (D,) that holds them one after the other in order of name."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = {name: tuple(shapes[name]) for name in sorted(shapes)}
        self._sizes = [math.prod(shape) for shape in self.shapes.values()]

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> StateVector:
        """That of states with these names and shapes."""
        return cls({name: tuple(tensor.shape) for name, tensor in tensors.items()})

    def pack(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """A copy of the tensors, which have the names and shapes that are expected, and one dtype."""
        return torch.cat([tensors[name].reshape(-1) for name in self.shapes]) if self.shapes else torch.zeros(0)

    def unpack(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views on the vector by name."""
        parts = torch.split(vector, self._sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def read(self, array: np.ndarray) -> dict[str, torch.Tensor]:
        """The tensors of an array that may be read-only, as a copy."""
        return self.unpack(torch.from_numpy(array.copy()))
