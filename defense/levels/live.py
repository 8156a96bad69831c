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

from defense.bounds import LOGIT
from defense.levels.client import suspicion
from defense.levels.level import Bounded, Level
from defense.odds import MENTION
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


def is_clear(probability: float, limit: float) -> bool:
    """Whether a score leaves no doubt: at least 3 to 1 for an honest client, or beyond the bound by as much.

    Args:
        probability: P(malicious), calibrated, so that p / (1 - p) are odds.
        limit: The bound; below 1/2 it counts as 1/2.

    Example: with a bound of 0.6, odds 1.5, scores up to 0.25 are clear, and those from odds 4.5, 0.818, on.
    """
    odds = probability / (1 - probability) if probability != 1 else math.inf
    at_bound = limit / (1 - limit) if limit != 1 else math.inf
    return odds <= 1 / MENTION or odds >= MENTION * max(1.0, at_bound)


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
