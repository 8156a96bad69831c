"""FLTrust-style validation: whether an update points where the server's own points (Cao, Fang, Liu and Gong, NDSS 2021,
arXiv 2012.13995). A baseline.

The server trains an update on a little clean data of the clients' own task (the authors: 100 examples). A client weighs its
trust score of their equation 2, the cosine of its update to that one, clipped at 0. The authors also stretch every update to
the length of the server's; here admission bounds lengths.
"""

from __future__ import annotations

from collections.abc import Sequence

from defense.levels.level import Level, Trust, Weights
from defense.signals import Measured

COSINE = "validation_cosine"
"""Cosine of the update to the update that the server trained on its validation data, in [-1, 1]."""


def weigh(trust: Trust, evidence: Sequence[Measured]) -> tuple[Weights, Trust]:
    """w = max(0, cosine); NaN is 0."""
    return {item.client_id: _clipped(item.values[COSINE]) for item in evidence}, trust


def _clipped(cosine: float) -> float:
    return min(1.0, cosine) if cosine > 0 else 0.0


LEVEL = Level(bind=lambda config: weigh, reads="validation", columns=(COSINE,))  # noqa: ARG005 - it has no settings
