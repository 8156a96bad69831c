"""From a classifier's scores to probabilities that mean what they say, and to a decision threshold.

Both are fitted on families and clients that the classifier never saw: scores on its own training data flatter it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from probe.samples import CLASSES


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x) without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def logit(p: float) -> float:
    """ln(p / (1 - p)), p kept within 1e-12 of 0 and 1."""
    p = min(max(p, 1e-12), 1 - 1e-12)
    return math.log(p / (1 - p))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """p -> sigmoid(slope x logit(p) + intercept)."""

    slope: float
    intercept: float

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (n,) float64; keeps the order of scores."""
        return np.array([sigmoid(self.slope * logit(float(score)) + self.intercept) for score in scores])


def fit_calibration(scores: np.ndarray, labels: np.ndarray) -> Calibration:
    """Platt scaling of scores (n,) by labels (n,), with smoothed targets (Platt, "Probabilistic outputs for support vector
    machines", 1999).

    The targets (n1 + 1) / (n1 + 2) and 1 / (n0 + 2) keep the slope finite where the classes are separable. The slope stays
    positive, so that calibration never reverses a ranking.

    Raises:
        ValueError: a class is missing, or a score is NaN.
    """
    from scipy.optimize import minimize  # takes half a second to import, and scoring does not need it

    _check(scores, labels)
    x = np.array([logit(float(score)) for score in scores])
    malicious, benign = int((labels == 1).sum()), int((labels == 0).sum())
    target = np.where(labels == 1, (malicious + 1) / (malicious + 2), 1 / (benign + 2))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        margin = parameters[0] * x + parameters[1]
        error = 1 / (1 + np.exp(-np.clip(margin, -500, 500))) - target
        return float((np.logaddexp(0, margin) - target * margin).sum()), np.array([(error * x).sum(), error.sum()])

    best = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(1e-3, None), (None, None)]).x
    return Calibration(slope=float(best[0]), intercept=float(best[1]))


def choose_threshold(scores: np.ndarray, labels: np.ndarray, target_fpr: float) -> float:
    """The threshold at which at most `target_fpr` of the benign samples are flagged (flagged: score >= threshold).

    It lies half way between the highest benign score that must stay below it and the next higher score, so that it has
    margin on both sides where the classes are apart.

    Raises:
        ValueError: a class is missing, a score is NaN, or more benign samples score 1 than may be flagged.
    """
    _check(scores, labels)
    benign = np.sort(scores[labels == 0])
    below = benign[len(benign) - 1 - int(target_fpr * len(benign))]
    lowest, highest = np.nextafter(below, 1), np.nextafter(1, 0)
    if lowest > highest:
        raise ValueError(
            f"{(benign >= highest).sum()} of {len(benign)} benign calibration samples score 1, so that no threshold keeps "
            f"target_fpr={target_fpr:g}; collect more samples or train another classifier"
        )
    above = np.min(scores[scores > below], initial=1.0)
    return float(np.clip((below + above) / 2, lowest, highest))


def _check(scores: np.ndarray, labels: np.ndarray) -> None:
    for label, name in CLASSES:
        if not np.any(labels == label):
            raise ValueError(f"there is no {name} calibration sample; calibration takes both classes")
    if np.isnan(scores).any():
        raise ValueError(f"the score of calibration sample {np.flatnonzero(np.isnan(scores))[0]} is NaN")
