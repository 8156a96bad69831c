"""`probe evaluate`: figures of a probe on families and clients that its training never saw."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import ConfigError
from cluster.probes.train import read_features
from probe.artefact import LoraProbe, load_probe
from probe.evaluation import evaluate_scores, exclude_seen
from probe.features import feature_blocks
from probe.plots import draw_evaluation
from probe.samples import Samples
from probe.store import SampleStore

_HEADLINE = ("roc_auc", "pr_auc", "tpr", "fpr", "brier", "expected_calibration_error")

Report = Mapping[str, Any]
"""Ready for JSON; `probe.evaluation.evaluate_scores` says what it holds."""


@dataclass(frozen=True, slots=True)
class ProbeEvaluation:
    """Figures of a probe, and the samples and scores that they come from."""

    report: Report
    samples: Samples
    scores: np.ndarray
    """(n,) P(malicious) of each sample."""


def evaluate_probe(probe_folder: Path, store_folder: Path, output: Path) -> ProbeEvaluation:
    """Measure a probe on the families and clients of a store that its training never saw.

    Writes `output` (JSON) and evaluation.png beside it.

    Raises:
        ConfigError: a probe or store cannot be used, they are of different models, or training has seen the whole store.
    """
    try:
        probe, store = load_probe(probe_folder), SampleStore.open(store_folder)
        evaluation = measure(probe, store)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    report = {"probe": str(probe_folder), "version": probe.meta.version, "store": str(store_folder), **evaluation.report}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    draw_evaluation(output.parent, evaluation.scores, evaluation.samples, probe.meta.threshold)
    return replace(evaluation, report=report)


def measure(probe: LoraProbe, store: SampleStore) -> ProbeEvaluation:
    """Figures on the samples that training never saw.

    Raises:
        ValueError: the store does not fit the probe, or training has seen all of it.
    """
    for what, of_probe, of_store in (
        ("base model", probe.meta.model_fingerprint, store.meta.model_fingerprint),
        ("LoRA settings and initial adapter", probe.meta.lora_fingerprint, store.meta.lora_fingerprint),
    ):
        if of_probe != of_store:
            raise ValueError(
                f"the probe was made for {what} {of_probe}, the store {store.folder} was collected with {of_store}; "
                "evaluate it on a store of the same model and lora settings"
            )
    samples = read_features(store, feature_blocks(probe.meta.feature, probe.meta.layers))
    seen = probe.meta.training
    samples, num_seen = exclude_seen(samples, seen.get("families", ()), seen.get("clients", ()))
    scores = probe.score_features(samples.features)
    report = {"num_excluded_as_seen": num_seen, **evaluate_scores(scores, samples, probe.meta.threshold)}
    return ProbeEvaluation(report, samples, scores)


def headline(report: Report) -> dict[str, float]:
    """The figures of a report without intervals and breakdowns."""
    return {name: report[name] for name in _HEADLINE}
