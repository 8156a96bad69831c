"""Client-Level: running mean of a two-sided logistic of the last step's score (Safe-FedLLM, docs/method.md section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from pydantic import PositiveFloat, PositiveInt

from defense.levels.level import Level, Trust, Weights
from defense.settings import Settings
from defense.signals import ProbeEvidence

_PRIOR = {"mean": 1.0, "rounds": 0}


class ClientSettings(Settings):
    """Running mean of a two-sided logistic of the last step's probability."""

    steepness: PositiveFloat = 10
    """k of the logistic."""
    adapt_rounds: PositiveInt = 20
    """Own scored rounds of a client after which its trust is frozen."""


def weigh(
    trust: Trust, evidence: Sequence[ProbeEvidence], *, steepness: float = 10, adapt_rounds: int = 20
) -> tuple[Weights, Trust]:
    """w = mean over the client's rounds of 1 - suspicion(s), s the probability of its last local step.

    A client's mean is frozen after `adapt_rounds` of its own scored rounds.
    """
    new = dict(trust)
    for item in evidence:
        past = new.get(item.client_id, _PRIOR)
        if past["rounds"] < adapt_rounds:
            factor = 1 - suspicion(item.last_probability, item.threshold, steepness)
            count = past["rounds"]
            new[item.client_id] = {"mean": (past["mean"] * count + factor) / (count + 1), "rounds": count + 1}
    return {item.client_id: new[item.client_id]["mean"] for item in evidence}, new


def suspicion(probability: float, threshold: float = 0.8, steepness: float = 10) -> float:
    """t in (0, 1): a logistic from 0 to 1/2 below the threshold, another from 1/2 to 1 above it.

    A number that is no probability has t = 1.
    """
    if not 0 <= probability <= 1:
        return 1.0
    if probability <= threshold:
        return 0.5 * _sigmoid(steepness * (probability / threshold - 0.5))
    return 0.5 + 0.5 * _sigmoid(steepness * ((probability - threshold) / (1 - threshold) - 0.5))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def trusts(trust: Trust, client_id: str) -> float | None:
    """The running mean in [0, 1]; None: no round of the client was scored."""
    return trust[client_id]["mean"] if client_id in trust else None


LEVEL = Level(bind=lambda config: partial(weigh, **config.client.model_dump()), reads="real", trusts=trusts)
