"""How much of a round one client may decide (docs/method.md section 8, "Influence")."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal


def capped(masses: Mapping[str, float], max_share: float) -> dict[str, float]:
    """Masses n w, the largest lowered to one common bound so that none is more than `max_share` of their sum.

    With s the share and R the sum of the masses below the bound, k clients at it have s R / (1 - k s) each. Where there are no
    more than 1 / s clients, which is too few for the share, all are lowered to the smallest mass: then each has an equal part.

    Example: 6, 3 and 1 with a share of 1/2: 4, 3 and 1.
    """
    ordered = sorted(masses.values(), reverse=True)
    bound = next((b for k in range(len(ordered)) if (b := _bound(ordered, k, max_share)) is not None), min(ordered, default=0.0))
    return {client_id: min(mass, bound) for client_id, mass in masses.items()}


def _bound(ordered: list[float], num_capped: int, max_share: float) -> float | None:
    """The bound to which this many of the largest masses are lowered; None where the next mass is above it."""
    rest = 1 - num_capped * max_share
    if rest <= 0:
        return None
    bound = max_share * sum(ordered[num_capped:]) / rest
    return bound if ordered[num_capped] <= bound * (1 + 1e-12) else None


def divisor(masses: Collection[float], num_samples: int, normalisation: Literal["weights", "samples"], max_share: float) -> float:
    """What the sum of n w delta is divided by.

    Args:
        masses: n w of the clients that count, at least one.
        num_samples: n of all admitted clients together.
        normalisation: By the sum of n w (the paper), or by n; then no client's part of n is more than `max_share`.
    """
    if normalisation == "weights":
        return sum(masses)
    return max(num_samples, max(masses) / max_share)
