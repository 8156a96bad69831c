"""From labelled samples to a probe: split, fit, calibrate, choose the threshold, measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from probe.artefact import LoraProbe
from probe.calibration import Calibration, choose_threshold, fit_calibration
from probe.classifiers import Classifier
from probe.classifiers.boosted import cross_fit_boosted
from probe.classifiers.cross_fit import cross_fit_linear
from probe.classifiers.layerwise import fit_layerwise
from probe.config import PAPER_THRESHOLD, ProbeConfig
from probe.drift import quantiles
from probe.evaluation import evaluate_scores
from probe.features import Block, block_sizes, feature_blocks
from probe.meta import ProbeMeta
from probe.samples import Samples
from probe.splits import folds, hold_out
from probe.store import StoreMeta

_DEFAULT_TARGET_FPR = 0.01
_FIGURES = ("num_samples", "roc_auc", "pr_auc", "tpr", "fpr", "brier", "expected_calibration_error")
_TRAINING_SETTINGS = {
    "threshold",
    "classifier",
    "feature",
    "target_fpr",
    "calibrate",
    "folds",
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
        calibration: Samples of other families and clients to calibrate on; None: what the fits held out.

    Raises:
        ValueError: one class only, too few clients, NaN in a feature, or calibration families that the fit saw.
    """
    blocks = blocks_of(config, store)
    if calibration is not None:
        _check_disjoint(samples, calibration)
    held_out = _held_out(samples, config)
    classifier, name, scores = _fit(samples, held_out, calibration, block_sizes(blocks, store.shapes), config)
    seen = ~np.isnan(scores)
    held, scores = samples.take(seen), scores[seen]
    if calibration is None:
        platt, threshold = _calibrate(scores, held.labels, config)
    else:
        platt, threshold = _calibrate(classifier.score(calibration.features), calibration.labels, config)
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
        training=_summary(samples, held_out, calibration, config),
        **_measure(platt.apply(scores) if platt else scores, held, threshold),
    )
    return LoraProbe(meta, classifier)


def _held_out(samples: Samples, config: ProbeConfig) -> list[np.ndarray]:
    """The rows that each fit holds out."""
    where = samples.labels, samples.clients, samples.families
    if config.num_folds == 1:
        return [hold_out(*where, config.validation_share, config.linear.seed)]
    return folds(*where, config.num_folds, config.linear.seed)


def _calibrates_scores(config: ProbeConfig) -> bool:
    return config.classifier == "xgboost" if config.calibrate is None else config.calibrate


def _chooses_threshold(config: ProbeConfig) -> bool:
    """The paper's threshold stands for the linear probe unless a target is set; others have none to start from."""
    if config.threshold is not None:
        return False
    return config.target_fpr is not None or config.classifier == "xgboost" or config.trained_feature == "per_layer"


def _fit(
    samples: Samples, held_out: Sequence[np.ndarray], calibration: Samples | None, sizes: Sequence[int], config: ProbeConfig
) -> tuple[Classifier, str, np.ndarray]:
    """The classifier, its name, and the scores (n,) of what a fit held out, NaN for the rest."""
    features, labels = samples.features, samples.labels
    if config.classifier == "xgboost":
        cosines = sizes if config.trained_feature == "module_cosines" else None
        return _named("xgboost", cross_fit_boosted(features, labels, samples.clients, held_out, cosines, config.xgboost))
    if config.trained_feature == "per_layer":
        return _named("layerwise", fit_layerwise(features, labels, held_out, sizes, config.linear, calibration))
    return _named("linear", cross_fit_linear(features, labels, held_out, config.linear))


def _named(name: str, fitted: tuple[Classifier, np.ndarray]) -> tuple[Classifier, str, np.ndarray]:
    return fitted[0], name, fitted[1]


def _calibrate(scores: np.ndarray, labels: np.ndarray, config: ProbeConfig) -> tuple[Calibration | None, float]:
    """Platt scaling where it is asked for, and the threshold, from scores of samples that the fit did not see."""
    platt = fit_calibration(scores, labels) if _calibrates_scores(config) else None
    if not _chooses_threshold(config):
        return platt, config.threshold or PAPER_THRESHOLD
    return platt, choose_threshold(platt.apply(scores) if platt else scores, labels, config.target_fpr or _DEFAULT_TARGET_FPR)


def _check_disjoint(samples: Samples, calibration: Samples) -> None:
    for name in ("families", "clients"):
        common = sorted({str(value) for value in getattr(samples, name)} & {str(value) for value in getattr(calibration, name)})
        if common:
            raise ValueError(f"probe.calibration_store has {name} of the training store: {common[:5]}; collect it from others")


def _summary(
    samples: Samples, held_out: Sequence[np.ndarray], calibration: Samples | None, config: ProbeConfig
) -> dict[str, Any]:
    """What the fit saw; `families` and `clients` are all that a fit, early stopping or calibration looked at."""
    parts = [samples] if calibration is None else [samples, calibration]
    return {
        "num_samples": len(samples),
        "num_clients": {
            name: len(np.unique(samples.clients[samples.labels == label])) for label, name in ((0, "benign"), (1, "malicious"))
        },
        "families": _distinct(*(part.families for part in parts)),
        "clients": _distinct(*(part.clients for part in parts)),
        "states": _distinct(samples.states),
        "num_held_out": len(np.unique(samples.clients[np.any(held_out, axis=0)])),
        "held_out_families": [_distinct(samples.families[mask]) for mask in held_out],
        "calibration_families": [] if calibration is None else _distinct(calibration.families),
        "config": config.model_dump(mode="json", include=_TRAINING_SETTINGS),
        "versions": _versions(config),
    }


def _versions(config: ProbeConfig) -> dict[str, str]:
    """Of the libraries that made the classifier. XGBoost takes a second to import, so a linear probe does not ask for it."""
    modules = [torch, np]
    if config.classifier == "xgboost":
        import xgboost

        modules.append(xgboost)
    return {module.__name__: module.__version__ for module in modules}


def _distinct(*arrays: np.ndarray) -> list[str]:
    return sorted({str(value) for array in arrays for value in array})


def _measure(scores: np.ndarray, held: Samples, threshold: float) -> dict[str, Any]:
    """Figures and score distributions of the held-out samples, each scored by a fit whose gradient did not see it.

    Early stopping did see them, which is a little optimistic; `probe evaluate` measures on families that nothing saw.
    """
    report = evaluate_scores(scores, held, threshold, bootstrap=0)
    last = report["by_step"][str(held.steps.max())]
    metrics = {
        "on": "held-out families",
        **{key: report[key] for key in _FIGURES},
        "last_step": {key: last[key] for key in ("roc_auc", "tpr", "fpr")},
    }
    distributions = {name: quantiles(scores[held.labels == label]) for label, name in ((0, "benign"), (1, "malicious"))}
    return {"metrics": metrics, "scores": distributions}
