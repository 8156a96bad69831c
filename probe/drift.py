"""Has the probe gone blind? The scores of a round against those of training, without ground truth.

The distribution of a round's scores is compared with the nearest mixture (1 - share) F_benign + share F_malicious of the
training distributions, since the malicious share of a round is not known. The distance is Kolmogorov-Smirnov's,
sup over x of |F_round(x) - F_mixture(x)|, and above 1.63 sqrt(1 / n + 1 / m) it is significant at 1 % (two samples of n and
m; the value for large samples: F. J. Massey, "The Kolmogorov-Smirnov test for goodness of fit", JASA 46, 1951).

Two things make the test cautious: the share is fitted to the round, and n and m count clients and not scores, since the
scores of one client are alike. With one or two clients the critical distance is above 1 and nothing is drift. A round whose
scores all look like those of one class is a mixture too, of share 0 or 1, and no drift.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

NUM_QUANTILES = 101
_SHARES = np.linspace(0, 1, 101)
_FEW = 0.1
"""Share of clients below which verdicts on one side are nothing unusual."""
_ADVICE = "refresh the probe, set defense.level=live, or collect samples from the current adapter and train it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What a round's scores say about the probe that gave them."""

    distance: float
    """Kolmogorov-Smirnov distance between the round's scores and the nearest mixture of the training distributions."""
    share: float
    """The malicious share of that mixture, the smallest on a grid of 0.01."""
    critical: float
    """Distance above which n clients would come from such a mixture in under 1 % of cases: 1.63 sqrt(1 / n + 1 / m)."""
    blind: bool
    """The distance is above the critical one, and every score lies on one side of the threshold."""
    message: str | None
    """For the log: what was seen and what to do; None when all is well."""


def quantiles(scores: Sequence[float] | np.ndarray) -> list[float]:
    """The 101 quantiles 0, 0.01 ... 1 of one class's training scores, ascending; raises ValueError as `watch` does."""
    return np.quantile(_checked(scores), np.linspace(0, 1, NUM_QUANTILES)).tolist()


def watch(
    scores: Sequence[float] | np.ndarray,
    num_clients: int,
    num_known: int,
    benign_quantiles: Sequence[float],
    malicious_quantiles: Sequence[float],
    threshold: float,
) -> Drift:
    """Compare a round's scores with those of training.

    Args:
        scores: P(malicious) in [0, 1], any number per client.
        num_clients: n, the independent clients that the scores come from.
        num_known: m, the clients that the training distributions come from.
        benign_quantiles: as `quantiles` made them of the training's benign scores; likewise `malicious_quantiles`.
        threshold: a score >= threshold counts as malicious.

    Raises:
        ValueError: no score, one outside [0, 1] or NaN, or no client.
    """
    scores = _checked(scores)
    if num_clients < 1 or num_known < 1:
        raise ValueError(f"num_clients={num_clients}, num_known={num_known}: scores come from at least one client")
    distance, share = _nearest_mixture(scores, np.asarray(benign_quantiles), np.asarray(malicious_quantiles))
    critical = 1.63 * math.sqrt(1 / num_clients + 1 / num_known)
    drifted, flagged = distance > critical, int((scores >= threshold).sum())
    blind, seen = drifted and flagged in (0, len(scores)), f"{len(scores)} scores of {num_clients} clients"
    if blind:
        side = "at or above" if flagged else "below"
        seen = f"the probe may be blind: all {seen} lie {side} its threshold {threshold:g} and"
    else:
        seen = f"the probe's scores have drifted: {seen}"
    figures = f"(Kolmogorov-Smirnov distance {distance:.2f} > {critical:.2f})"
    message = f"{seen} are no mixture of the scores it was trained on {figures}; {_ADVICE}" if drifted else None
    return Drift(distance=distance, share=share, critical=critical, blind=blind, message=message)


def collapse(earlier: Sequence[float], now: float) -> str | None:
    """A warning when all verdicts have fallen to one side, unlike in the run's earlier rounds; None when they have not.

    A probe whose scores all sink below its threshold looks as if there were no attackers, so no single round tells it.

    Args:
        earlier: Share of clients flagged in each earlier round.
        now: In this round.
    """
    usual = float(np.median(earlier)) if len(earlier) else now
    if (now == 0 and usual >= _FEW) or (now == 1 and usual <= 1 - _FEW):
        flagged = "no" if now == 0 else "every"
        return f"the probe may be blind: it flags {flagged} client, in earlier rounds it flagged {usual:.0%}; {_ADVICE}"
    return None


def _checked(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64)
    if not scores.size:
        raise ValueError("there are no scores; the distribution of a probe's scores needs at least one")
    outside = scores[~((scores >= 0) & (scores <= 1))]
    if outside.size:
        raise ValueError(f"score {outside[0]} is no probability; the scores of a probe lie in [0, 1]")
    return scores


def _nearest_mixture(scores: np.ndarray, benign: np.ndarray, malicious: np.ndarray) -> tuple[float, float]:
    """The smallest distance over the grid of shares, and its share.

    Between two support points F_round is constant and the mixture linear, so that the supremum lies at a support point or
    just below one.
    """
    support = np.unique(np.concatenate([scores, benign, malicious]))
    seen = np.concatenate([np.searchsorted(np.sort(scores), support, side) / len(scores) for side in ("left", "right")])
    low, high = (
        np.concatenate([_cumulative(points, support, side) for side in ("left", "right")]) for points in (benign, malicious)
    )
    mixtures = low + _SHARES[:, None] * (high - low)
    distances = np.abs(seen - mixtures).max(axis=1)
    best = int(distances.argmin())
    return float(distances[best]), float(_SHARES[best])


def _cumulative(quantiles: np.ndarray, at: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
    """P(X <= at) for the side "right" and P(X < at) for "left", linear between the quantiles, a jump where they are equal."""
    index = np.searchsorted(quantiles, at, side)
    result = (index == len(quantiles)).astype(np.float64)
    inside = (index > 0) & (index < len(quantiles))
    above = index[inside]
    start, end = quantiles[above - 1], quantiles[above]
    result[inside] = (above - 1 + (at[inside] - start) / (end - start)) / (len(quantiles) - 1)
    return result
