"""The round gate: whether a round is aggregated, skipped, or lacks a quorum; and the lower bound on weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

Outcome = Literal["aggregated", "skipped", "no_quorum", "rolled_back"]
"""`rolled_back` is an aggregated round that the guard has undone (`defense/guard.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome of the round, with the sentence that says why."""

    outcome: Outcome
    why: str
    mean_weight: float | None
    """Mean over the admitted clients; None without any."""


def decide(weights: Mapping[str, float], *, min_updates: int, skip_below: float) -> Decision:
    """Judge a round by the weights of its admitted clients, before `min_weight` raises any (docs/method.md section 4)."""
    admitted = len(weights)
    mean = fmean(weights.values()) if weights else None
    if mean is None or admitted < min_updates:
        why = f"{admitted} updates were admitted, clients.min_updates={min_updates} are needed"
        return Decision(outcome="no_quorum", why=why, mean_weight=mean)
    if not mean >= skip_below:
        why = f"mean weight {mean:.3f} of {admitted} clients is below defense.skip_below={skip_below:g}"
        return Decision(outcome="skipped", why=f"{why}: malicious clients dominate", mean_weight=mean)
    if mean == 0:
        return Decision(outcome="skipped", why=f"all {admitted} clients weigh nothing", mean_weight=mean)
    return Decision(outcome="aggregated", why=f"mean weight {mean:.3f} of {admitted} clients", mean_weight=mean)


def apply_min_weight(weight: float, min_weight: float) -> float:
    """`min_weight` as a lower bound on a weight that comes from valid evidence."""
    return max(weight, min_weight)
