"""Figures of a probe on labelled samples: how well its scores tell malicious updates from benign ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from probe.samples import CLASSES, Samples

CALIBRATION_BINS = 10


class Figures(TypedDict):
    """See `evaluate_scores`."""

    roc_auc: float
    pr_auc: float
    tpr: float
    fpr: float
    brier: float
    expected_calibration_error: float


class GroupFigures(TypedDict):
    """Of the samples of one step, family or state; None where a class is missing."""

    num_samples: int
    roc_auc: float | None
    tpr: float | None
    fpr: float | None
    brier: float
    mean_score: float


class EvaluationReport(Figures):
    """See `evaluate_scores`."""

    num_samples: int
    num_clients: dict[str, int]
    threshold: float
    confusion: dict[str, int]
    intervals: dict[str, list[float]]
    by_step: dict[str, GroupFigures]
    by_family: dict[str, GroupFigures]
    by_state: dict[str, GroupFigures]


def ranking(scored: Mapping[str, Sequence[float]]) -> float:
    """Area under the ROC curve: the share of pairs of a benign and a malicious score that are ranked rightly, a tie as half.

    Args:
        scored: `benign` and `malicious` -> scores.

    Raises:
        ValueError: a class has none.
    """
    benign, malicious = np.asarray(scored["benign"]), np.asarray(scored["malicious"])
    if not benign.size or not malicious.size:
        raise ValueError("the reference clients lack a class at the last step")
    higher, equal = malicious[:, None] > benign, malicious[:, None] == benign
    return float((higher + equal / 2).mean())


def evaluate_scores(
    scores: ArrayLike, samples: Samples, threshold: float, *, bootstrap: int = 1000, seed: int = 0
) -> EvaluationReport:
    """Figures, confidence intervals and breakdowns of the scores, ready for JSON.

    `roc_auc` counts a tie as half. `pr_auc` is the average precision: the precision at each distinct score, weighted by
    the recall it adds. A sample is flagged when its score >= threshold; `tpr` and `fpr` are the flagged shares of the
    malicious and of the benign samples. `brier` is the mean of (score - label)^2. `expected_calibration_error` is the mean
    over 10 equal-width bins of |mean score - observed malicious share|, weighted by the samples in the bin.

    `intervals` holds 95 % percentile intervals [low, high] of these. The bootstrap draws clients, since the samples of one
    client are alike, with replacement and within each class. `by_step`, `by_family` and `by_state` hold the figures of the
    samples of one step, family or state, None where a class is missing.

    Args:
        scores: (n,) P(malicious) in [0, 1].
        samples: the n samples that were scored; the features are not read.
        bootstrap: number of resamples; 0: no intervals.

    Raises:
        ValueError: scores and samples differ in length, no samples, one class only, a score outside [0, 1] or NaN.
    """
    scores, labels = check_scores(scores, samples), samples.labels
    ranks = np.unique(-scores, return_inverse=True)[1]
    figures = _figures(scores, ranks, labels, threshold, np.ones(len(labels)))
    resamples = [_figures(scores, ranks, labels, threshold, weights) for weights in _client_resamples(samples, bootstrap, seed)]
    return {
        "num_samples": len(samples),
        "num_clients": samples.num_clients,
        "threshold": float(threshold),
        **figures,
        "confusion": _confusion(scores >= threshold, labels == 1),
        "intervals": {
            name: np.percentile([resample[name] for resample in resamples], [2.5, 97.5]).tolist()
            for name in (figures if resamples else ())
        },
        "by_step": _breakdown(scores, labels, threshold, samples.steps),
        "by_family": _breakdown(scores, labels, threshold, samples.families),
        "by_state": _breakdown(scores, labels, threshold, samples.states),
    }


def exclude_seen(samples: Samples, families: Collection[str], clients: Collection[str]) -> tuple[Samples, int]:
    """The samples whose family and client training never saw, and the number of the others.

    Raises ValueError when what remains lacks a class; names the families that were excluded.
    """
    of_seen_family = np.isin(samples.families, np.array(list(families), dtype=str))
    seen = of_seen_family | np.isin(samples.clients, np.array(list(clients), dtype=str))
    rest = samples.take(~seen)
    if problem := _missing_class(rest):
        raise ValueError(
            f"without the {seen.sum()} samples whose family or client the probe was trained on (families "
            f"{np.unique(samples.families[of_seen_family]).tolist()}), {problem}; collect an evaluation store from other "
            "families: `safe-fedllm probe collect` with another collect.role, or with other data of your own, where the column "
            "`family`, else the name of the file, says which family a row is of"
        )
    return rest, int(seen.sum())


def check_scores(scores: ArrayLike, samples: Samples) -> np.ndarray:
    """The scores as float64, fit to be measured against the samples' labels; raises as `evaluate_scores` does."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != (len(samples),):
        raise ValueError(f"scores of shape {scores.shape} for {len(samples)} samples; give one score per sample")
    if problem := _missing_class(samples):
        raise ValueError(f"{problem}; measuring a probe takes both classes")
    outside = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
    if len(outside):
        raise ValueError(f"score {scores[outside[0]]} of sample {outside[0]} is no probability; scores lie in [0, 1]")
    return scores


def calibration_bins(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(10,): the sum of `values` (n,) over the scores in [0, 0.1), [0.1, 0.2), ... [0.9, 1]."""
    bins = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return np.bincount(bins, values, minlength=CALIBRATION_BINS)


def _missing_class(samples: Samples) -> str | None:
    if not len(samples):
        return "there are no samples"
    for label, name in CLASSES:
        if not np.any(samples.labels == label):
            return f"the samples hold no {name} client"
    return None


def _client_resamples(samples: Samples, number: int, seed: int) -> Iterator[np.ndarray]:
    """Yield, `number` times, how often each sample counts (n,) when clients are drawn anew within each class."""
    random = np.random.default_rng(seed)
    rows_by_class = [np.flatnonzero(samples.labels == label) for label, _ in CLASSES]
    classes = [(rows, np.unique(samples.clients[rows], return_inverse=True)[1]) for rows in rows_by_class]
    for _ in range(number):
        weights = np.empty(len(samples))
        for rows, client in classes:
            count = client.max() + 1
            weights[rows] = np.bincount(random.integers(count, size=count), minlength=count)[client]
        yield weights


def _figures(scores: np.ndarray, ranks: np.ndarray, labels: np.ndarray, threshold: float, weights: np.ndarray) -> Figures:
    """The figures when each sample counts `weights` (n,) times, a whole number."""
    roc_auc, pr_auc = _areas(ranks, labels, weights)
    malicious, benign = weights * (labels == 1), weights * (labels == 0)
    gaps = np.abs(calibration_bins(scores, weights * (scores - labels)))
    return {
        "roc_auc": roc_auc,
        "pr_auc": pr_auc,
        "tpr": float(np.average(scores >= threshold, weights=malicious)),
        "fpr": float(np.average(scores >= threshold, weights=benign)),
        "brier": float(np.average((scores - labels) ** 2, weights=weights)),
        "expected_calibration_error": float(gaps.sum() / weights.sum()),
    }


def _areas(ranks: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Areas under the ROC and the precision-recall curve; `ranks` (n,) number the distinct scores from the highest, 0."""
    malicious, benign = np.bincount(ranks, weights * (labels == 1)), np.bincount(ranks, weights * (labels == 0))
    hits, false_alarms = malicious.cumsum(), benign.cumsum()
    roc_auc = (benign * (hits - malicious / 2)).sum() / (hits[-1] * false_alarms[-1])
    pr_auc = (malicious * hits / np.maximum(hits + false_alarms, 1)).sum() / hits[-1]
    return float(roc_auc), float(pr_auc)


def _confusion(flagged: np.ndarray, malicious: np.ndarray) -> dict[str, int]:
    return {
        "true_positive": int((flagged & malicious).sum()),
        "false_positive": int((flagged & ~malicious).sum()),
        "true_negative": int((~flagged & ~malicious).sum()),
        "false_negative": int((~flagged & malicious).sum()),
    }


def _breakdown(scores: np.ndarray, labels: np.ndarray, threshold: float, groups: np.ndarray) -> dict[str, GroupFigures]:
    return {
        str(group): _group_figures(scores[groups == group], labels[groups == group], threshold) for group in np.unique(groups)
    }


def _group_figures(scores: np.ndarray, labels: np.ndarray, threshold: float) -> GroupFigures:
    benign, malicious = scores[labels == 0], scores[labels == 1]
    both = len(benign) and len(malicious)
    ranks = np.unique(-scores, return_inverse=True)[1]
    return {
        "num_samples": len(scores),
        "roc_auc": _areas(ranks, labels, np.ones(len(labels)))[0] if both else None,
        "tpr": float(np.mean(malicious >= threshold)) if len(malicious) else None,
        "fpr": float(np.mean(benign >= threshold)) if len(benign) else None,
        "brier": float(np.mean((scores - labels) ** 2)),
        "mean_score": float(np.mean(scores)),
    }
