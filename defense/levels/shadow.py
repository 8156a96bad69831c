"""Shadow-Level: suppression by the flagged share of a shadow branch that starts from a fixed adapter every round.

Resists drift of the global model (Safe-FedLLM, docs/method.md section 3). Stateless. The client itself reports the shadow,
so a client that lies in it passes (docs/method.md section 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pydantic import PositiveFloat

from defense.levels.level import Level, Trust, Weights
from defense.settings import Settings
from defense.signals import ProbeEvidence


class ShadowSettings(Settings):
    """Suppression by the share of flagged samples of the shadow branch."""

    strength: PositiveFloat = 7
    """Exponent eta."""
    learning_rate: PositiveFloat = 5e-5
    """Fixed learning rate of the shadow branch; it should be the rate that the probe was collected with."""


def weigh(trust: Trust, evidence: Sequence[ProbeEvidence], *, strength: float = 7) -> tuple[Weights, Trust]:
    """w = (1 - r) ** strength, r the share of samples in flagged shadow steps."""
    return {item.client_id: (1 - item.ratio) ** strength for item in evidence}, trust


LEVEL = Level(
    bind=lambda config: partial(weigh, strength=config.shadow.strength),
    reads="shadow",
    wants_shadow=lambda config, trust, client_id: True,  # noqa: ARG005
)
