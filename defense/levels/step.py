"""Step-Level: Bayesian trust from the samples of flagged steps (Safe-FedLLM, METHOD.md section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from defense.evidence import Evidence

_PRIOR = {"alpha": 1.0, "beta": 1.0, "rounds": 0}


def weigh(
    state: Mapping[str, Any], evidence: Sequence[Evidence], *, decay: float = 0.95, adapt_rounds: int = 20
) -> tuple[dict[str, float], Mapping[str, Any]]:
    """w = alpha / (alpha + beta) with alpha <- decay alpha + (n - h) and beta <- decay beta + h.

    Both start at 1. A client's trust is frozen after `adapt_rounds` of its own scored rounds.
    """
    new = dict(state)
    for item in evidence:
        trust = new.get(item.client_id, _PRIOR)
        if trust["rounds"] < adapt_rounds:
            new[item.client_id] = {
                "alpha": decay * trust["alpha"] + (item.num_samples - item.num_flagged),
                "beta": decay * trust["beta"] + item.num_flagged,
                "rounds": trust["rounds"] + 1,
            }
    return {item.client_id: _mean(new[item.client_id]) for item in evidence}, new


def _mean(trust: Mapping[str, float]) -> float:
    return trust["alpha"] / (trust["alpha"] + trust["beta"])
