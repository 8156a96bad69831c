"""No defense: every admitted client weighs 1. Plain FedAvg, the baseline."""

from __future__ import annotations

from collections.abc import Sequence

from defense.levels.level import Level, Trust, Weights
from defense.signals import ClientSignals


def weigh(trust: Trust, evidence: Sequence[ClientSignals]) -> tuple[Weights, Trust]:
    """Weight 1 for each client; trust stays as it is."""
    return {item.client_id: 1.0 for item in evidence}, trust


LEVEL = Level(bind=lambda config: weigh)  # noqa: ARG005 - it has no settings
