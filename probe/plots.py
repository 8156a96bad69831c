"""The picture of a probe on labelled samples: ROC, precision and recall, reliability, and the scores by local step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from probe.evaluation import CALIBRATION_BINS, calibration_bins, check_scores
from probe.samples import Samples

_MALICIOUS, _BENIGN, _GREY = "#D55E00", "#0072B2", "#999999"
"""Okabe-Ito colours, which colour-blind readers can tell apart."""
_POINT = {"linestyle": "", "marker": "o", "markersize": 9, "color": "black", "markeredgecolor": "white", "zorder": 3}
_UNIT = (-0.02, 1.02)
"""Limits of an axis from 0 to 1 on which nothing at 0 or 1 is cut off."""


def draw_evaluation(folder: Path, scores: np.ndarray, samples: Samples, threshold: float) -> Path:
    """Write evaluation.png, the picture of the scores (n,) of the n samples.

    Raises:
        ValueError: as `evaluate_scores` does.
    """
    path = folder / "evaluation.png"
    evaluation_figure(scores, samples, threshold).savefig(path, dpi=130)
    return path


def evaluation_figure(scores: np.ndarray, samples: Samples, threshold: float) -> Figure:
    """The picture as a figure; arguments and errors are those of `draw_evaluation`."""
    scores = check_scores(scores, samples)
    figure = Figure(figsize=(10.5, 9), layout=ConstrainedLayoutEngine(hspace=0.06, wspace=0.06))
    (roc, precision), (reliability, steps) = figure.subplots(2, 2)
    _draw_roc(roc, scores, samples.labels, threshold)
    _draw_precision(precision, scores, samples.labels, threshold)
    _draw_reliability(reliability, scores, samples.labels)
    _draw_steps(steps, scores, samples, threshold)
    for axes in (roc, precision, reliability, steps):
        axes.title.set(fontsize=11)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False)
    return figure


def _draw_roc(axes: Axes, scores: np.ndarray, labels: np.ndarray, threshold: float) -> None:
    false_alarms, hits, _ = roc_curve(labels, scores)
    axes.plot(false_alarms, hits, color=_BENIGN, label=f"AUC {roc_auc_score(labels, scores):.3f}")
    axes.plot([0, 1], [0, 1], ":", color=_GREY, label="chance")
    flagged = scores >= threshold
    axes.plot(flagged[labels == 0].mean(), flagged[labels == 1].mean(), label=f"threshold {threshold:g}", **_POINT)
    axes.set(title="ROC", xlabel="false-positive rate", ylabel="true-positive rate", xlim=_UNIT, ylim=_UNIT)


def _draw_precision(axes: Axes, scores: np.ndarray, labels: np.ndarray, threshold: float) -> None:
    """The point at the threshold is left out where no sample is flagged, which has no precision."""
    precision, recall, _ = precision_recall_curve(labels, scores)
    average = average_precision_score(labels, scores)
    axes.plot(recall, precision, color=_BENIGN, drawstyle="steps-post", label=f"average precision {average:.3f}")
    axes.axhline(labels.mean(), linestyle=":", color=_GREY, label="chance")
    flagged = scores >= threshold
    if flagged.any():
        axes.plot(flagged[labels == 1].mean(), labels[flagged].mean(), label=f"threshold {threshold:g}", **_POINT)
    axes.set(title="Precision and recall", xlabel="recall", ylabel="precision", xlim=_UNIT, ylim=_UNIT)


def _draw_reliability(axes: Axes, scores: np.ndarray, labels: np.ndarray) -> None:
    """Observed malicious share over the mean score of each bin; the area of a dot tells its bin's share of the samples."""
    counts, sums, malicious = (calibration_bins(scores, values) for values in (np.ones(len(scores)), scores, labels))
    used = counts > 0
    counts, sums, malicious = counts[used], sums[used], malicious[used]
    axes.plot([0, 1], [0, 1], ":", color=_GREY, label="perfectly calibrated")
    sizes = 30 + 300 * counts / len(scores)
    axes.scatter(sums / counts, malicious / counts, sizes, color=_BENIGN, label="probe", clip_on=False, zorder=3)
    title = f"Reliability in {CALIBRATION_BINS} bins (the larger a dot, the more samples)"
    axes.set(title=title, xlabel="mean score in the bin", ylabel="malicious share in the bin", xlim=_UNIT, ylim=_UNIT)


def _draw_steps(axes: Axes, scores: np.ndarray, samples: Samples, threshold: float) -> None:
    for label, name, colour in ((1, "malicious", _MALICIOUS), (0, "benign", _BENIGN)):
        own = samples.labels == label
        steps = np.unique(samples.steps[own])
        low, median, high = np.transpose([np.quantile(scores[own & (samples.steps == x)], [0.05, 0.5, 0.95]) for x in steps])
        axes.plot(steps, median, "o-", markersize=4, color=colour, label=name)
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.axhline(threshold, linestyle="--", color="black", label=f"threshold {threshold:g}")
    axes.set(title="Scores by local step (median and middle 90 %)", xlabel="local step", ylabel="P(malicious)", ylim=_UNIT)
    axes.set_xlim(samples.steps.min() - 0.5, samples.steps.max() + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
