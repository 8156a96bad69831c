"""Step-Level: Bayesian trust from the samples of flagged steps (Safe-FedLLM, docs/method.md section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from pydantic import Field, PositiveInt

from defense.levels.level import Level, Trust, Weights
from defense.settings import Settings
from defense.signals import ProbeEvidence

_PRIOR = {"alpha": 1.0, "beta": 1.0, "rounds": 0}


class StepSettings(Settings):
    """Bayesian trust from flagged samples."""

    decay: float = Field(default=0.95, gt=0, le=1)
    """Time decay gamma of both counts, per round."""
    adapt_rounds: PositiveInt = 20
    """Own scored rounds of a client after which its trust is frozen."""


def weigh(
    trust: Trust, evidence: Sequence[ProbeEvidence], *, decay: float = 0.95, adapt_rounds: int = 20
) -> tuple[Weights, Trust]:
    """w = alpha / (alpha + beta) with alpha <- decay alpha + (n - h) and beta <- decay beta + h.

    Both start at 1. A client's trust is frozen after `adapt_rounds` of its own scored rounds.
    """
    new = dict(trust)
    for item in evidence:
        counts = new.get(item.client_id, _PRIOR)
        if counts["rounds"] < adapt_rounds:
            new[item.client_id] = {
                "alpha": decay * counts["alpha"] + (item.num_samples - item.num_flagged),
                "beta": decay * counts["beta"] + item.num_flagged,
                "rounds": counts["rounds"] + 1,
            }
    return {item.client_id: _mean(new[item.client_id]) for item in evidence}, new


def _mean(counts: Mapping[str, float]) -> float:
    return counts["alpha"] / (counts["alpha"] + counts["beta"])


def trusts(trust: Trust, client_id: str) -> float | None:
    """alpha / (alpha + beta) in [0, 1]; None: no round of the client was scored."""
    return _mean(trust[client_id]) if client_id in trust else None


LEVEL = Level(bind=lambda config: partial(weigh, **config.step.model_dump()), reads="real", trusts=trusts)
