"""From labelled samples to a probe: split, fit, calibrate, choose the threshold, measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from probe.artefact import LoraProbe
from probe.calibration import Calibration, choose_threshold, fit_calibration
from probe.classifiers import Classifier
from probe.classifiers.boosted import fit_boosted
from probe.classifiers.layerwise import fit_layerwise
from probe.classifiers.linear import fit_linear
from probe.config import PAPER_THRESHOLD, ProbeConfig
from probe.drift import quantiles
from probe.evaluation import evaluate_scores
from probe.features import Block, block_sizes, feature_blocks
from probe.meta import ProbeMeta
from probe.samples import Samples
from probe.splits import hold_out
from probe.store import StoreMeta

_DEFAULT_TARGET_FPR = 0.01
_TRAINING_SETTINGS = {
    "threshold",
    "classifier",
    "feature",
    "target_fpr",
    "calibrate",
    "calibration_share",
    "validation_share",
    "linear",
    "xgboost",
}
"""What a refresh trains the next version with."""


def blocks_of(config: ProbeConfig, store: StoreMeta) -> tuple[Block, ...]:
    """The blocks that training will read from a store.

    Raises:
        ValueError: the store holds too few tensors for the feature.
    """
    feature = config.trained_feature
    if feature != "first_layer_b" and not any(".lora_A." in name for name in store.shapes):
        raise ValueError(
            f"probe.feature={feature} reads every LoRA tensor, the store holds {len(store.shapes)} of the first layer: "
            "collect with collect.modules=all"
        )
    return feature_blocks(feature, store.layers)


def train_probe(samples: Samples, store: StoreMeta, config: ProbeConfig, calibration: Samples | None = None) -> LoraProbe:
    """Fit a probe as `config` says.

    Args:
        samples: With features of `blocks_of(config, store)`.
        store: What the samples were made with.
        calibration: Samples of other families and clients to calibrate on; None: a share of `samples`.

    Raises:
        ValueError: one class only, too few clients or families, NaN in a feature, or calibration families that the fit saw.
    """
    blocks = blocks_of(config, store)
    if calibration is not None:
        _check_disjoint(samples, calibration)
    elif _is_calibrated(config):
        held = hold_out(samples.labels, samples.clients, samples.families, config.calibration_share, config.linear.seed + 1)
        samples, calibration = samples.take(~held), samples.take(held)
    validation = hold_out(samples.labels, samples.clients, samples.families, config.validation_share, config.linear.seed)
    classifier, name = _fit(samples, validation, calibration, block_sizes(blocks, store.shapes), config)
    platt, threshold = _calibrate(classifier, calibration, config)
    names = sorted(name for block in blocks for name in block.tensors)
    meta = ProbeMeta(
        classifier=name,
        feature=config.trained_feature,
        shapes={name: store.shapes[name] for name in names},
        layers={name: store.layers[name] for name in names},
        model_fingerprint=store.model_fingerprint,
        lora_fingerprint=store.lora_fingerprint,
        threshold=threshold,
        recipe=dict(store.recipe),
        calibration=asdict(platt) if platt else None,
        training=_summary(samples, validation, calibration, config),
    )
    return _measured(LoraProbe(meta, classifier), samples.take(validation))


def _is_calibrated(config: ProbeConfig) -> bool:
    """Whether anything is learnt from held-out calibration samples."""
    return _calibrates_scores(config) or _chooses_threshold(config) or config.trained_feature == "per_layer"


def _calibrates_scores(config: ProbeConfig) -> bool:
    return config.classifier == "xgboost" if config.calibrate is None else config.calibrate


def _chooses_threshold(config: ProbeConfig) -> bool:
    """The paper's threshold stands for the linear probe unless a target is set; others have none to start from."""
    if config.threshold is not None:
        return False
    return config.target_fpr is not None or config.classifier == "xgboost" or config.trained_feature == "per_layer"


def _fit(
    samples: Samples, validation: np.ndarray, calibration: Samples | None, sizes: Sequence[int], config: ProbeConfig
) -> tuple[Classifier, str]:
    features, labels = samples.features, samples.labels
    if config.classifier == "xgboost":
        cosines = sizes if config.trained_feature == "module_cosines" else None
        return fit_boosted(features, labels, validation, cosines, config.xgboost), "xgboost"
    if config.trained_feature == "per_layer":
        return fit_layerwise(features, labels, validation, calibration, sizes, config.linear), "layerwise"
    return fit_linear(features, labels, validation, config.linear), "linear"


def _calibrate(classifier: Classifier, calibration: Samples | None, config: ProbeConfig) -> tuple[Calibration | None, float]:
    """Platt scaling where it is asked for, and the threshold."""
    platt, threshold = None, config.threshold or PAPER_THRESHOLD
    if calibration is None:
        return platt, threshold
    scores = classifier.score(calibration.features)
    if _calibrates_scores(config):
        platt = fit_calibration(scores, calibration.labels)
        scores = platt.apply(scores)
    if _chooses_threshold(config):
        threshold = choose_threshold(scores, calibration.labels, config.target_fpr or _DEFAULT_TARGET_FPR)
    return platt, threshold


def _check_disjoint(samples: Samples, calibration: Samples) -> None:
    common = sorted(set(calibration.families) & set(samples.families))
    if common:
        raise ValueError(f"probe.calibration_store has families of the training store: {common[:5]}; collect it from others")


def _summary(samples: Samples, validation: np.ndarray, calibration: Samples | None, config: ProbeConfig) -> dict[str, Any]:
    """What the fit saw; `families` and `clients` are all that the fit, early stopping or calibration looked at."""
    parts = [samples] if calibration is None else [samples, calibration]
    return {
        "num_samples": len(samples),
        "num_clients": {
            name: len(np.unique(samples.clients[samples.labels == label])) for label, name in ((0, "benign"), (1, "malicious"))
        },
        "families": sorted({str(family) for part in parts for family in part.families}),
        "clients": sorted({str(client) for part in parts for client in part.clients}),
        "states": sorted({str(state) for state in samples.states}),
        "validation_families": sorted({str(family) for family in samples.families[validation]}),
        "calibration_families": [] if calibration is None else sorted({str(family) for family in calibration.families}),
        "config": config.model_dump(mode="json", include=_TRAINING_SETTINGS),
        "versions": {package: version(package) for package in ("torch", "xgboost", "numpy")},
    }


def _measured(probe: LoraProbe, validation: Samples) -> LoraProbe:
    """The probe with its figures and score distributions on the validation families, which the fit never saw."""
    scores = probe.score_features(validation.features)
    report = evaluate_scores(scores, validation, probe.meta.threshold, bootstrap=0)
    kept = ("num_samples", "roc_auc", "pr_auc", "tpr", "fpr", "brier", "expected_calibration_error")
    distributions: Mapping[str, list[float]] = {
        name: quantiles(scores[validation.labels == label]) for label, name in ((0, "benign"), (1, "malicious"))
    }
    last = report["by_step"][str(validation.steps.max())]
    metrics = {
        "on": "validation families",
        **{key: report[key] for key in kept},
        "last_step": {key: last[key] for key in ("roc_auc", "tpr", "fpr")},
    }
    return LoraProbe(replace(probe.meta, metrics=metrics, scores=distributions), probe.classifier)
