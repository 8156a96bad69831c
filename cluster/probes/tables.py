"""Tables about sample stores and probes, for the command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.table import Column, Table

from cluster.probes.evaluate import Report
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
    table = _table(f"{store.folder}: {len(store)} samples", "state", "class", "family", numbers=("clients",))
    counts = Counter((state, label.malicious, label.family) for state, label in store.clients())
    for (state, malicious, family), count in sorted(counts.items()):
        table.add_row(state, "malicious" if malicious else "benign", family, str(count))
    return table


def training_table(meta: ProbeMeta) -> Table:
    """What the probe was fitted to, and its figures on the families that its fits held out."""
    training, clients = meta.training, meta.training["num_clients"]
    table = _table("Probe, measured on the families that its fits held out", "", " ")
    table.show_header = False
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


def figures_table(report: Report) -> Table:
    """The overall figures with their 95 % intervals."""
    clients = report["num_clients"]
    title = (
        f"{report['num_samples']} samples of {clients['benign']} benign and {clients['malicious']} malicious clients that "
        f"training never saw ({report['num_excluded_as_seen']} others left out), threshold {report['threshold']:.3f}"
    )
    table = _table(title, "figure", numbers=("value", "95 % interval"))
    for name, shown in _FIGURES.items():
        low, high = report["intervals"][name]
        table.add_row(shown, f"{report[name]:.3f}", f"{low:.3f} - {high:.3f}")
    return table


def breakdown_table(report: Report, by: str) -> Table:
    """The figures of each step, family or state."""
    table = _table(f"By {by}", by, numbers=("samples", "ROC AUC", "TPR", "FPR", "mean score"))
    rows = report[f"by_{by}"].items()
    for group, figures in sorted(rows, key=lambda item: int(item[0])) if by == "step" else rows:
        values = [figures[name] for name in ("roc_auc", "tpr", "fpr", "mean_score")]
        table.add_row(group, str(figures["num_samples"]), *("-" if value is None else f"{value:.3f}" for value in values))
    return table


def _table(title: str, *texts: str, numbers: Sequence[str] = ()) -> Table:
    return Table(*texts, *(Column(name, justify="right") for name in numbers), title=title, title_justify="left")
