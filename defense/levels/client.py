"""Client-Level: running mean of a two-sided logistic of the last step's score (Safe-FedLLM, METHOD.md section 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from defense.evidence import Evidence

_PRIOR = {"mean": 1.0, "rounds": 0}


def weigh(
    state: Mapping[str, Any],
    evidence: Sequence[Evidence],
    *,
    steepness: float = 10,
    adapt_rounds: int = 20,
) -> tuple[dict[str, float], Mapping[str, Any]]:
    """w = mean over the client's rounds of 1 - suspicion(s), s the probability of its last local step.

    A client's mean is frozen after `adapt_rounds` of its own scored rounds.
    """
    new = dict(state)
    for item in evidence:
        trust = new.get(item.client_id, _PRIOR)
        if trust["rounds"] < adapt_rounds:
            factor = 1 - suspicion(item.last_probability, item.threshold, steepness)
            count = trust["rounds"]
            new[item.client_id] = {"mean": (trust["mean"] * count + factor) / (count + 1), "rounds": count + 1}
    return {item.client_id: new[item.client_id]["mean"] for item in evidence}, new


def suspicion(probability: float, threshold: float = 0.8, steepness: float = 10) -> float:
    """t in (0, 1): a logistic from 0 to 1/2 below the threshold, another from 1/2 to 1 above it; 1 for what is no probability."""
    if not 0 <= probability <= 1:
        return 1.0
    if probability <= threshold:
        return 0.5 * _sigmoid(steepness * (probability / threshold - 0.5))
    return 0.5 + 0.5 * _sigmoid(steepness * ((probability - threshold) / (1 - threshold) - 0.5))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
