"""Live-Level: the verdict on the submitted update itself, by a probe that knows the current adapter (docs/method.md section 8).

The server computes the update's delta, so nothing that a client reports about itself counts; a refreshed probe follows
the global adapter's drift. Stateless.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from defense.bounds import LOGIT
from defense.levels.client import suspicion
from defense.levels.level import Bounded, Level
from defense.settings import Settings

if TYPE_CHECKING:
    from defense.config import DefenseConfig

PROBABILITY = "last_step_probability"
"""P(malicious) of the update."""


class LiveSettings(Settings):
    """Verdict on the submitted update itself (docs/method.md section 8)."""

    soft: bool = False
    """Weigh by the client level's curve instead of 0 or 1."""
    steepness: PositiveFloat = 10
    """k of that curve."""


def _curve(config: DefenseConfig) -> Callable[[float, float], float] | None:
    """w = 1 - suspicion(p), the client level's curve, where `soft` asks for it."""
    return partial(soft_weight, steepness=config.live.steepness) if config.live.soft else None


def soft_weight(probability: float, threshold: float, *, steepness: float = 10) -> float:
    """w = 1 - suspicion(p) in [0, 1]."""
    return 1 - suspicion(probability, threshold, steepness)


LEVEL = Level(
    reads="update",
    bounded=Bounded(
        column=PROBABILITY,
        title="P(malicious)",
        key="probe.threshold",
        by_hand=lambda config, threshold: threshold,  # noqa: ARG005
        scale=LOGIT,
        least=0.5,  # the probe is calibrated: below it, a client is more likely honest than malicious
        curve=_curve,
    ),
)
