"""A bound on how far the product B A of a LoRA module moves in a round, beside the bounds on its factors (METHOD.md section 8).

The bound follows from the global factors. Where A (R, I) moves by dA and B (O, R) by dB, the product moves by
dW = dB A + B dA + dB dA. A round moves a value by `reach` at most (`adamw_reach`), and if the values of dA and dB had that size
and independent signs, the root of the mean square of the three terms' Frobenius norms would be

    reach sqrt(O) |A|,  reach sqrt(I) |B|  and  reach^2 sqrt(O I R).

Their sum is what `admission.product_factor` multiplies. However the signs conspire, none of the terms is larger than sqrt(R)
times its own: |dB A| <= |dB| |A| and |dB| <= reach sqrt(O R), and likewise the others. So a factor of sqrt(R) refuses nobody
who trains with AdamW at the asked rate. LoRA's scaling alpha / r multiplies both sides, and is left out of both.

A derivation of ours; the papers on norm bounds (Sun, Kairouz, Suresh and McMahan 2019, arXiv 1911.07963) bound whole updates.

Shapes: O outputs, I inputs, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from defense.admission import Reason, Refusal
from defense.averaging.pairs import complete_pairs

Adapter = Mapping[str, torch.Tensor]


def product_bounds(adapter: Adapter, factor: float, reach_a: float, reach_b: float) -> dict[str, float]:
    """The largest |dW| in the Frobenius norm that each module is allowed, by the name of its A; empty without LoRA modules.

    Args:
        adapter: The global adapter.
        factor: `admission.product_factor`.
        reach_a: How far a round moves a value of A at most; 0 where A is frozen.
        reach_b: The same for B.
    """
    bounds = {}
    for pair in complete_pairs(adapter):
        a_RI, b_OR = _matrix(adapter[pair.a]), _matrix(adapter[pair.b])
        outputs, rank, inputs = len(b_OR), len(a_RI), a_RI.shape[1]
        by_b, by_a = reach_b * math.sqrt(outputs) * float(a_RI.norm()), reach_a * math.sqrt(inputs) * float(b_OR.norm())
        bounds[pair.a] = factor * (by_b + by_a + reach_a * reach_b * math.sqrt(outputs * inputs * rank))
    return bounds


def check_products(tensors: Adapter, adapter: Adapter, bounds: Mapping[str, float] | None) -> Refusal | None:
    """No module's product may have moved further than its bound; None: no bound.

    Args:
        tensors: A client's full LoRA state, of the names and shapes of `adapter`.
        adapter: The global adapter.
        bounds: As `product_bounds` gave them for this adapter.
    """
    for pair in complete_pairs(adapter) if bounds is not None else ():
        moved = product_change(tensors[pair.a], tensors[pair.b], adapter[pair.a], adapter[pair.b])
        if not moved <= bounds[pair.a]:
            module = pair.a.partition(".lora_A.")[0]
            detail = f"the product B A of {module} moved by {moved:.4g}, above the bound {bounds[pair.a]:.4g}"
            return Refusal(Reason.NORM_EXCEEDED, detail)
    return None


def product_change(new_a: torch.Tensor, new_b: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> float:
    """The Frobenius norm of B' A' - B A, in float64 and without the product: it is [dB B] [A'; dA], and |L R|^2 is the sum of
    (L' L) (R R') value by value, which are 2R x 2R.
    """
    a_RI, b_OR, new_a_RI, new_b_OR = (_matrix(tensor) for tensor in (a, b, new_a, new_b))
    left_O2R = torch.cat([new_b_OR - b_OR, b_OR], dim=1)
    right_2RI = torch.cat([new_a_RI, new_a_RI - a_RI])
    square = float(((left_O2R.T @ left_O2R) * (right_2RI @ right_2RI.T)).sum())
    return math.sqrt(max(square, 0.0)) if math.isfinite(square) else math.inf


def _matrix(tensor: torch.Tensor) -> torch.Tensor:
    """In float64, and for a convolution with its window among the inputs."""
    return tensor.double().flatten(1)
