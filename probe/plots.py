"""The picture of a probe on labelled samples: ROC, precision and recall, reliability, and the scores by local step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from probe.evaluation import CALIBRATION_BINS, calibration_bins, check_scores
from probe.samples import Samples

_MALICIOUS, _BENIGN, _GREY = "#D55E00", "#0072B2", "#999999"
"""Okabe-Ito colours, which colour-blind readers can tell apart."""
_POINT = {"marker": "o", "markersize": 8, "color": _MALICIOUS, "markeredgecolor": "white", "zorder": 3, "clip_on": False}


def draw_evaluation(folder: Path, scores: np.ndarray, samples: Samples, threshold: float) -> Path:
    """Write evaluation.png, four panels about the scores (n,) of the n samples.

    Raises:
        ValueError: as `evaluate_scores` does.
    """
    scores = check_scores(scores, samples)
    figure = Figure(figsize=(10.5, 8.5), layout="constrained")
    (roc, precision), (reliability, steps) = figure.subplots(2, 2)
    _draw_roc(roc, scores, samples.labels, threshold)
    _draw_precision(precision, scores, samples.labels, threshold)
    _draw_reliability(reliability, scores, samples.labels)
    _draw_steps(steps, scores, samples, threshold)
    for axes in (roc, precision, reliability, steps):
        axes.title.set(fontsize=11)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=9, loc=_LEGENDS[axes is steps])
    path = folder / "evaluation.png"
    figure.savefig(path, dpi=130)
    return path
