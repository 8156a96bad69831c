"""Zeno-style validation: whether an update helps on the server's own data (Xie, Koyejo and Gupta, ICML 2019, arXiv
1805.10032). A baseline.

The score is their definition 2: by how much the update lowers the loss of clean data of the clients' own task, less a price
for its length. Zeno drops the b lowest scores of a round; an absolute bound instead, as in Zeno++ (arXiv 1903.07020), judges
each client by itself and needs no b. Their u is a gradient, and the step tried is gamma u; here both are the update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from pydantic import NonNegativeFloat

from defense.levels.level import Level, Trust, Weights
from defense.settings import Settings
from defense.signals import Measured

FALL, NORM = "validation_fall", "validation_norm"
"""Loss of the validation data under the global adapter minus that under the update, nats per token; L2 norm of the update."""


class ZenoSettings(Settings):
    """Fall of the loss of the server's validation data."""

    price: NonNegativeFloat = 0.0005
    """rho, nats per token and squared L2 norm of the update. The number is the authors', the unit is not: their code multiplies
    it by the mean square of a gradient, far less. 0: the fall of the loss alone decides."""
    min_score: float = 0.0
    """Score below which an update weighs 0, nats per token."""


def weigh(trust: Trust, evidence: Sequence[Measured], *, price: float = 0.0005, min_score: float = 0.0) -> tuple[Weights, Trust]:
    """w = 1 where fall - price x norm^2 is at least `min_score` (nats per token), else 0; NaN is 0.

    Example: a loss that falls by 0.02 with an update of norm 6 scores 0.02 - 0.0005 x 36 = 0.002: weight 1.
    """
    return {item.client_id: 1.0 if _score(item.values, price) >= min_score else 0.0 for item in evidence}, trust


def _score(values: Mapping[str, float], price: float) -> float:
    return values[FALL] - price * values[NORM] ** 2


LEVEL = Level(bind=lambda config: partial(weigh, **config.zeno.model_dump()), reads="validation", columns=(FALL,))
