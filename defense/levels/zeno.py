"""Zeno-style validation: whether an update helps on the server's own data (Xie, Koyejo and Gupta, ICML 2019, arXiv
1805.10032). A baseline.

The score is their definition 2: by how much the update lowers the loss of clean data of the clients' own task, less a price
for its length. Zeno drops the b lowest scores of a round; an absolute bound instead, as in Zeno++ (arXiv 1903.07020), judges
each client by itself and needs no b. Their u is a gradient, and the step tried is gamma u; here both are the update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from defense.evidence import Validated


def weigh(
    state: Mapping[str, Any], evidence: Sequence[Validated], *, price: float = 0.0005, min_score: float = 0.0
) -> tuple[dict[str, float], Mapping[str, Any]]:
    """w = 1 where fall - price x norm^2 is at least `min_score` (nats per token), else 0; NaN is 0.

    Example: a loss that falls by 0.02 with an update of norm 6 scores 0.02 - 0.0005 x 36 = 0.002: weight 1.
    """
    return {item.client_id: 1.0 if item.fall - price * item.norm**2 >= min_score else 0.0 for item in evidence}, state
