"""What levels without a model see of a delta, as functions that an attacker can descend.

Shapes: M attackers, D values of an adapter in order of name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn.functional import cosine_similarity, normalize

from defense.tensors import Tensors, rows

_TINY = 1e-300


def spread(delta: Tensors) -> torch.Tensor:
    """What `defense.levels.spectrum.flatness` gives, with a gradient; 0-d float64. Every tensor is float64."""
    total, weighted = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for matrix in (tensor.flatten(1) for _, tensor in sorted(delta.items()) if tensor.dim() > 1):
        num_rows, num_columns = matrix.shape
        if min(num_rows, num_columns) < 2:
            continue
        gram = matrix @ matrix.T if num_rows <= num_columns else matrix.T @ matrix
        length = gram.trace()
        of_noise = (num_rows * num_columns + 2) / (num_rows + num_columns + 1)
        total = total + length
        weighted = weighted + length**3 / gram.square().sum().clamp(min=_TINY) / of_noise
    return weighted / total.clamp(min=_TINY)


def mean_direction(deltas_MD: torch.Tensor) -> torch.Tensor:
    """The mean of the deltas, each first brought to length 1, (D,)."""
    return normalize(deltas_MD, dim=1).mean(0)


def agreement(deltas_MD: torch.Tensor, index: int) -> float:
    """Cosine of one delta to the mean direction of the others, as level consensus measures it; 0 where there are no others."""
    units_MD = normalize(deltas_MD, dim=1)
    return float(cosine_similarity(units_MD[index], units_MD.sum(0) - units_MD[index], dim=0))


class Likeness:
    """How much a delta points, in each layer, to where malicious trainings differ from harmless ones in the mean.

    A probe that is fitted to few clients leaves most directions free, and an update that evades one such probe is caught by the
    next. What malicious trainings of many families have in common every such probe finds.
    """

    def __init__(self, benign: Sequence[Tensors], malicious: Sequence[Tensors], layers: Mapping[str, int]) -> None:
        """`layers`: parameter name -> transformer layer; the deltas of the others are not looked at."""
        towards_D = mean_direction(rows(malicious)) - mean_direction(rows(benign))
        layer_D = rows([{name: torch.full_like(tensor, layers.get(name, -1)) for name, tensor in benign[0].items()}])[0]
        self._towards_LD = torch.stack([towards_D * (layer_D == layer) for layer in sorted(set(layers.values()))])

    def cosines(self, delta_D: torch.Tensor) -> torch.Tensor:
        """One for each layer, in order; with a gradient."""
        seen_LD = delta_D * (self._towards_LD != 0)
        return cosine_similarity(seen_LD, self._towards_LD, dim=1)
