"""Live-Level: the verdict on the submitted update itself, by a probe that knows the current adapter (docs/method.md section 8).

The server computes the update's delta, so nothing that a client reports about itself counts; a refreshed probe follows
the global adapter's drift. Stateless.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from defense.bounds import LOGIT, Bound
from defense.levels.client import suspicion
from defense.levels.level import Bounded, Level
from defense.odds import MENTION
from defense.settings import Settings

if TYPE_CHECKING:
    from defense.config import DefenseConfig

PROBABILITY = "last_step_probability"
"""P(malicious) of the update."""


LEAST = MENTION / (1 + MENTION)
"""Least bound that scores of a probe give where it was fitted to the references: odds of 3 to 1 for a malicious client."""


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


def is_clear(probability: float, bound: Bound) -> bool:
    """Whether a score leaves no doubt: it lies beyond the bound, or it is one of an honest client.

    Scores of honest clients reach up to the limit of the references. Where the probe was fitted to these, or a key sets the
    bound, that says nothing: then they reach up to odds of 1 to 3.

    Args:
        probability: P(malicious).

    Example: with a bound of 0.9 and references whose limit is 0.4, scores between 0.4 and 0.9 are in doubt.
    """
    if bound.state != "in force" or not math.isfinite(probability):
        return False
    honest = LOGIT.forward(1 - LEAST) if bound.honest is None else bound.honest
    return bound.scale.forward(probability) <= honest or bound.is_beyond(probability)


LEVEL = Level(
    reads="update",
    bounded=Bounded(
        column=PROBABILITY,
        title="P(malicious)",
        key="probe.threshold",
        by_hand=lambda config, threshold: threshold,  # noqa: ARG005
        scale=LOGIT,
        least=LEAST,
        curve=_curve,
    ),
)
