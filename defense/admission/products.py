"""A bound on how far the product B A of a LoRA module moves in a round, beside the bounds on its factors
(docs/method.md section 8).

The bound follows from the global factors. Where A (R, I) moves by dA and B (O, R) by dB, the product moves by
dW = dB A + B dA + dB dA. A round moves a value by `reach` at most (`adamw_reach`), and if the values of dA and dB had that size
and independent signs, the root of the mean square of the three terms' Frobenius norms would be

    reach sqrt(O) |A|,  reach sqrt(I) |B|  and  reach^2 sqrt(O I R).

Their sum is what `admission.product_factor` multiplies. However the signs conspire, none of the terms is larger than sqrt(R)
times its own: |dB A| <= |dB| |A| and |dB| <= reach sqrt(O R), and likewise the others. So a factor of sqrt(R) refuses nobody
who trains with AdamW at the asked rate. LoRA's scaling, alpha / r or alpha / sqrt(r), multiplies both
sides, and is left out of both.

A derivation of ours; the papers on norm bounds (Sun, Kairouz, Suresh and McMahan 2019, arXiv 1911.07963) bound whole updates.

Shapes: M modules whose factors have equal shapes, O outputs, I inputs, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from defense.admission.checks import Reason, Refusal
from defense.averaging.pairs import Pair, complete_pairs

Adapter = Mapping[str, torch.Tensor]
_BATCH_VALUES = 1 << 21
"""Values of the modules that are computed together; 16 MiB in float64."""
_ROUNDING = 1 + 1e-5
"""Covers the rounding of float32 differences in a bound from above."""


@dataclass(frozen=True, slots=True)
class _Modules:
    """Modules that are computed together, with the global factors."""

    pairs: Sequence[Pair]
    a_MRI: torch.Tensor
    b_MOR: torch.Tensor

    def bounds(self, reach_a: float, reach_b: float) -> list[float]:
        """The sum of the three terms for each module."""
        outputs, rank, inputs = self.b_MOR.shape[1], self.a_MRI.shape[1], self.a_MRI.shape[2]
        by_b_M = reach_b * math.sqrt(outputs) * _norms(self.a_MRI)
        by_a_M = reach_a * math.sqrt(inputs) * _norms(self.b_MOR)
        return (by_b_M + by_a_M + reach_a * reach_b * math.sqrt(outputs * inputs * rank)).tolist()

    def most(self, state: Adapter) -> list[float]:
        """|dB| |A'| + |B| |dA| of each module, which `changes` is never above and which costs half as much."""
        new_a_MRI, new_b_MOR = self._factors(state)
        most_M = _norms(new_b_MOR - self.b_MOR) * _norms(new_a_MRI) + _norms(self.b_MOR) * _norms(new_a_MRI - self.a_MRI)
        return (_ROUNDING * most_M).tolist()

    def changes(self, state: Adapter) -> list[float]:
        """|B' A' - B A| of each module, without the product.

        The difference is dB A' + B dA, and the scalar product of L R and S T is that of L' S and R T', which are R x R.
        """
        new_a_MRI, new_b_MOR, a_MRI, b_MOR = (x.double() for x in (*self._factors(state), self.a_MRI, self.b_MOR))
        da_MRI, db_MOR = new_a_MRI - a_MRI, new_b_MOR - b_MOR
        of_b = (db_MOR.mT @ db_MOR) * (new_a_MRI @ new_a_MRI.mT)
        of_both = (db_MOR.mT @ b_MOR) * (new_a_MRI @ da_MRI.mT)
        of_a = (b_MOR.mT @ b_MOR) * (da_MRI @ da_MRI.mT)
        squares = (of_b + 2 * of_both + of_a).sum((1, 2)).tolist()
        return [math.sqrt(max(square, 0.0)) if math.isfinite(square) else math.inf for square in squares]

    def _factors(self, state: Adapter) -> tuple[torch.Tensor, torch.Tensor]:
        return _stacked(state, [pair.a for pair in self.pairs]), _stacked(state, [pair.b for pair in self.pairs])


class ProductBounds:
    """How far each module's product may move from that of one global adapter."""

    def __init__(self, adapter: Adapter, factor: float, reach_a: float, reach_b: float) -> None:
        """Compute the bounds, which are in the Frobenius norm.

        Args:
            adapter: The global adapter.
            factor: `admission.product_factor`.
            reach_a: How far a round moves a value of A at most; 0 where A is frozen.
            reach_b: The same for B.
        """
        self._modules = [
            _Modules(pairs, _stacked(adapter, [p.a for p in pairs]), _stacked(adapter, [p.b for p in pairs]))
            for pairs in _alike(adapter)
        ]
        self._bounds = [[factor * bound for bound in modules.bounds(reach_a, reach_b)] for modules in self._modules]

    def by_module(self) -> dict[str, float]:
        """The bound of each module, by the name of its A."""
        return {pair.a: bound for pair, bound in self._pairs_with(self._bounds)}

    def changes(self, state: Adapter) -> dict[str, float]:
        """How far the products of a client's full LoRA state lie from the global ones, by the name of A."""
        return {pair.a: change for pair, change in self._pairs_with(m.changes(state) for m in self._modules)}

    def check(self, state: Adapter) -> Refusal | None:
        """No module's product may have moved further than its bound.

        Args:
            state: A client's full LoRA state, of the names and shapes of the global adapter.
        """
        for modules, bounds in zip(self._modules, self._bounds, strict=True):
            if all(most <= bound for most, bound in zip(modules.most(state), bounds, strict=True)):
                continue
            for pair, moved, bound in zip(modules.pairs, modules.changes(state), bounds, strict=True):
                if not moved <= bound:
                    module = pair.a.partition(".lora_A.")[0]
                    detail = f"the product B A of {module} moved by {moved:.4g}, above the bound {bound:.4g}"
                    return Refusal(Reason.NORM_EXCEEDED, detail)
        return None

    def _pairs_with(self, values: Iterator[list[float]] | list[list[float]]) -> Iterator[tuple[Pair, float]]:
        for modules, own in zip(self._modules, values, strict=True):
            yield from zip(modules.pairs, own, strict=True)


def _alike(adapter: Adapter) -> list[list[Pair]]:
    """Modules whose factors have the same shapes, at most so many together that a batch stays small."""
    by_shape: dict[tuple[torch.Size, torch.Size], list[Pair]] = {}
    for pair in complete_pairs(adapter):
        by_shape.setdefault((adapter[pair.a].shape, adapter[pair.b].shape), []).append(pair)
    batches = []
    for (a_shape, b_shape), pairs in by_shape.items():
        most = max(1, _BATCH_VALUES // (a_shape.numel() + b_shape.numel()))
        batches += [pairs[start : start + most] for start in range(0, len(pairs), most)]
    return batches


def _stacked(state: Adapter, names: Sequence[str]) -> torch.Tensor:
    """A convolution's window counts among its inputs."""
    return torch.stack([state[name].flatten(1) for name in names])


def _norms(matrices: torch.Tensor) -> torch.Tensor:
    """The Frobenius norm of each, in float64."""
    return torch.linalg.vector_norm(matrices, dim=(1, 2), dtype=torch.float64)
