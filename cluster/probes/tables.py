"""Tables about sample stores and probes, for the command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from probe.meta import ProbeMeta
from probe.store import SampleStore

_FIGURES = {
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "tpr": "TPR at the threshold",
    "fpr": "FPR at the threshold",
    "brier": "Brier score",
    "expected_calibration_error": "calibration error",
}


def store_table(store: SampleStore) -> Table:
    """A row per adapter state, class and family: how many reference clients."""
    table = Table(title=f"{store.folder}: {len(store)} samples", title_justify="left")
    for name in ("state", "class", "family", "clients"):
        table.add_column(name, justify="right" if name == "clients" else "left")
    counts = Counter((state, label.malicious, label.family) for state, label in store.clients())
    for (state, malicious, family), count in sorted(counts.items()):
        table.add_row(state, "malicious" if malicious else "benign", family, str(count))
    return table


def training_table(meta: ProbeMeta) -> Table:
    """What was trained, on what, and its figures on the validation families."""
    training, clients = meta.training, meta.training["num_clients"]
    table = Table(title="Probe, measured on the families that its fits held out", title_justify="left", show_header=False)
    for name in ("", " "):
        table.add_column(name)
    table.add_row("classifier, feature", f"{meta.classifier}, {meta.feature}")
    table.add_row(
        "fitted on", f"{training['num_samples']} samples of {clients['benign']} benign and {clients['malicious']} malicious"
    )
    for families in training["held_out_families"]:
        table.add_row("held out", ", ".join(families))
    if training["calibration_families"]:
        table.add_row("calibrated on", ", ".join(training["calibration_families"]))
    table.add_row("threshold", f"{meta.threshold:.3f}")
    for name, title in _FIGURES.items():
        table.add_row(title, f"{meta.metrics[name]:.3f}")
    return table


def figures_table(report: Mapping[str, Any]) -> Table:
    """The overall figures with their 95 % intervals."""
    clients = report["num_clients"]
    title = (
        f"{report['num_samples']} samples of {clients['benign']} benign and {clients['malicious']} malicious clients that "
        f"training never saw ({report['num_excluded_as_seen']} others left out), threshold {report['threshold']:.3f}"
    )
    table = Table(title=title, title_justify="left")
    for name in ("figure", "value", "95 % interval"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for name, shown in _FIGURES.items():
        low, high = report["intervals"][name]
        table.add_row(shown, f"{report[name]:.3f}", f"{low:.3f} - {high:.3f}")
    return table


def breakdown_table(report: Mapping[str, Any], by: str) -> Table:
    """The figures of each step, family or state."""
    table = Table(title=f"By {by}", title_justify="left")
    for name in (by, "samples", "ROC AUC", "TPR", "FPR", "mean score"):
        table.add_column(name, justify="left" if name == by else "right")
    rows = report[f"by_{by}"].items()
    for group, figures in sorted(rows, key=lambda item: int(item[0])) if by == "step" else rows:
        values = [figures[name] for name in ("roc_auc", "tpr", "fpr", "mean_score")]
        table.add_row(group, str(figures["num_samples"]), *("-" if value is None else f"{value:.3f}" for value in values))
    return table
