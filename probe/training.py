"""From labelled samples to a probe: split, fit, calibrate, choose the threshold, measure."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import numpy as np

from probe.artefact import LoraProbe
from probe.calibration import choose_threshold, fit_calibration
from probe.classifiers.base import TrainingData
from probe.config import PAPER_THRESHOLD, ProbeTraining
from probe.drift import quantiles
from probe.evaluation import evaluate_scores
from probe.features import Block, block_sizes, feature_blocks
from probe.meta import Metrics, ProbeMeta, TrainingSummary
from probe.samples import CLASSES, Samples
from probe.splits import folds, hold_out
from probe.store_meta import StoreMeta


def blocks_of(config: ProbeTraining, store: StoreMeta) -> tuple[Block, ...]:
    """The blocks that training will read from a store; raises ValueError when it holds too few tensors for the feature."""
    feature = config.trained_feature
    if feature != "first_layer_b" and not any(".lora_A." in name for name in store.shapes):
        raise ValueError(
            f"probe.feature={feature} reads every LoRA tensor, the store holds {len(store.shapes)} of the first layer: "
            "collect with collect.modules=all"
        )
    return feature_blocks(feature, store.layers)


SCORE = "last_step_probability"
"""The column of rounds.parquet with P(malicious) of a client's last step."""


def train_probe(
    samples: Samples,
    store: StoreMeta,
    config: ProbeTraining,
    calibration: Samples | None = None,
) -> LoraProbe:
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
    sizes = block_sizes(blocks, store.shapes)
    data = TrainingData(samples, _held_out(samples, config), config.trained_feature, sizes, calibration)
    classifier, scores = config.spec.fit(data, getattr(config, config.spec.choice, None))
    seen = ~np.isnan(scores)
    held, scores = samples.take(seen), scores[seen]
    if calibration is None:
        unseen, labels = scores, held.labels
    else:
        unseen, labels = classifier.score(calibration.features), calibration.labels
    calibrates = config.spec.calibrated if config.calibrate is None else config.calibrate
    platt = fit_calibration(unseen, labels) if calibrates else None
    names = sorted(name for block in blocks for name in block.tensors)
    probabilities = platt.apply(scores) if platt else scores
    threshold = _threshold(platt.apply(unseen) if platt else unseen, labels, config)
    meta = ProbeMeta(
        classifier=config.spec.name,
        feature=config.trained_feature,
        shapes={name: store.shapes[name] for name in names},
        layers={name: store.layers[name] for name in names},
        model_fingerprint=store.model_fingerprint,
        lora_fingerprint=store.lora_fingerprint,
        threshold=threshold,
        recipe=dict(store.recipe),
        calibration=platt,
        training=_summary(data, config),
        metrics=_measure(probabilities, held, threshold),
        scores={name: quantiles(probabilities[held.labels == label]) for label, name in CLASSES},
    )
    own = final_values(LoraProbe(meta, classifier).score_features(samples.features), samples)
    return LoraProbe(replace(meta, references={SCORE: own}), classifier)


def final_values(values: np.ndarray, samples: Samples) -> dict[str, list[float]]:
    """`benign` and `malicious` -> the values (n,) of the samples of the last step, in order of client and adapter state."""
    order = np.lexsort((samples.states, samples.clients))
    last = order[samples.steps[order] == samples.steps.max()]
    return {name: [float(values[row]) for row in last if samples.labels[row] == label] for label, name in CLASSES}


def _held_out(samples: Samples, config: ProbeTraining) -> list[np.ndarray]:
    """The rows that each fit holds out."""
    number = config.folds or config.spec.num_folds
    if number == 1:
        return [hold_out(samples, config.validation_share, config.linear.seed)]
    return folds(samples, number, config.linear.seed)


def _threshold(scores: np.ndarray, labels: np.ndarray, config: ProbeTraining) -> float:
    """The threshold that `config` asks for, from scores of samples that the fit did not see."""
    target_fpr = config.target_fpr or config.spec.target_fpr
    if config.threshold is not None or target_fpr is None:
        return config.threshold or PAPER_THRESHOLD
    return choose_threshold(scores, labels, target_fpr)


def _check_disjoint(samples: Samples, calibration: Samples) -> None:
    for name in ("families", "clients"):
        common = sorted(set(_distinct(getattr(samples, name))) & set(_distinct(getattr(calibration, name))))
        if common:
            raise ValueError(f"probe.calibration_store has {name} of the training store: {common[:5]}; collect it from others")


def _summary(data: TrainingData, config: ProbeTraining) -> TrainingSummary:
    samples, calibration = data.samples, data.calibration
    parts = [samples] if calibration is None else [samples, calibration]
    return {
        "num_samples": len(samples),
        "num_clients": samples.num_clients,
        "families": _distinct(*(part.families for part in parts)),
        "clients": _distinct(*(part.clients for part in parts)),
        "states": _distinct(samples.states),
        "num_held_out": len(np.unique(samples.clients[np.any(data.held_out, axis=0)])),
        "held_out_families": [_distinct(samples.families[mask]) for mask in data.held_out],
        "calibration_families": [] if calibration is None else _distinct(calibration.families),
        "config": config.model_dump(mode="json", include=set(ProbeTraining.model_fields)),
        "versions": {package: import_module(package).__version__ for package in ("torch", "numpy", *config.spec.libraries)},
    }


def _distinct(*arrays: np.ndarray) -> list[str]:
    return sorted({str(value) for array in arrays for value in array})


def _measure(scores: np.ndarray, held: Samples, threshold: float) -> Metrics:
    """Figures of the held-out samples, each scored by a fit whose gradient did not see it.

    Early stopping did see them, which is a little optimistic; `probe evaluate` measures on families that nothing saw.
    """
    report = evaluate_scores(scores, held, threshold, bootstrap=0)
    last = report["by_step"][str(held.steps.max())]
    return {
        "on": "held-out families",
        "num_samples": report["num_samples"],
        "roc_auc": report["roc_auc"],
        "pr_auc": report["pr_auc"],
        "tpr": report["tpr"],
        "fpr": report["fpr"],
        "brier": report["brier"],
        "expected_calibration_error": report["expected_calibration_error"],
        "last_step": {"roc_auc": last["roc_auc"], "tpr": last["tpr"], "fpr": last["fpr"]},
    }
