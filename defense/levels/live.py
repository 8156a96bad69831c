"""Live-Level: the verdict on the submitted update itself, by a probe that knows the current adapter (docs/method.md section 8).

The server computes the update's delta, so nothing that a client reports about itself counts; a refreshed probe follows
the global adapter's drift. Stateless.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pydantic import PositiveFloat

from defense.levels.client import suspicion
from defense.levels.level import Level, Trust, Weights
from defense.settings import Settings
from defense.signals import ProbeEvidence


class LiveSettings(Settings):
    """Verdict on the submitted update itself (docs/method.md section 8)."""

    soft: bool = False
    """Weigh by the client level's curve instead of 0 or 1."""
    steepness: PositiveFloat = 10
    """k of that curve."""


def weigh(trust: Trust, evidence: Sequence[ProbeEvidence], *, soft: bool = False, steepness: float = 10) -> tuple[Weights, Trust]:
    """w = 0 where p >= threshold, else 1; soft: w = 1 - suspicion(p), the client level's curve."""
    if soft:
        return {item.client_id: 1 - suspicion(item.last_probability, item.threshold, steepness) for item in evidence}, trust
    return {item.client_id: 0.0 if item.is_flagged else 1.0 for item in evidence}, trust


LEVEL = Level(bind=lambda config: partial(weigh, **config.live.model_dump()), reads="update")
