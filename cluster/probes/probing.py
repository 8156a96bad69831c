"""`probe train` and `probe evaluate`: from sample stores to an artefact, and from both to figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config.loading import load_config, validate, with_overrides
from cluster.errors import ConfigError
from probe.artefact import LoraProbe, load_probe, save_probe
from probe.evaluation import evaluate_scores, exclude_seen
from probe.features import Block, extract, feature_blocks
from probe.meta import META_FILE, ProbeMeta
from probe.plots import draw_evaluation
from probe.samples import Samples
from probe.store import SampleStore, StoreMeta
from probe.training import blocks_of, train_probe

_RATES = ("roc_auc", "pr_auc", "tpr", "fpr", "brier", "expected_calibration_error")


@dataclass(frozen=True, slots=True)
class ProbeEvaluation:
    """Figures of a probe, and the samples and scores they come from."""

    report: dict[str, Any]
    """Ready for JSON; see `probe.evaluation.evaluate_scores`."""
    samples: Samples
    scores: Any


def train_from_store(folder: Path, overrides: Sequence[str], output: Path) -> LoraProbe:
    """Train a probe on the store in `folder` and write it to `output`.

    The settings are those the store was collected with (its config.yaml) under the overrides.

    Raises:
        ConfigError: unusable settings, store or samples; names what is wrong and the fix.
    """
    if (output / META_FILE).exists():
        raise ConfigError(f"--output {output} holds a probe; name a new folder")
    try:
        store, settings = SampleStore.open(folder), folder / "config.yaml"
        config = (load_config(settings, overrides) if settings.is_file() else validate(with_overrides({}, overrides))).probe
        blocks = blocks_of(config, store.meta)
        calibration = None
        if config.calibration_store is not None:
            calibration = read_features(_fitting_store(Path(config.calibration_store), store.meta), blocks)
        probe = train_probe(read_features(store, blocks), store.meta, config, calibration)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    save_probe(output, probe)
    return probe


def merge_stores(folder: Path, others: Sequence[Path]) -> SampleStore:
    """Copy the reference clients of `others` into the store in `folder`; raises ConfigError when one does not fit."""
    try:
        store = SampleStore.open(folder)
        for other in others:
            store.merge(SampleStore.open(other))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return store


def read_features(store: SampleStore, blocks: Sequence[Block]) -> Samples:
    """The store's samples with the feature that `blocks` describe; raises ValueError as `SampleStore.read` does."""
    names = [name for block in blocks for name in block.tensors]
    return store.read(lambda delta: extract(blocks, delta), names)


def evaluate_probe(probe_folder: Path, store_folder: Path, output: Path) -> ProbeEvaluation:
    """Measure a probe on the families and clients of a store that its training never saw.

    Writes `output` (JSON) and evaluation.png beside it.

    Raises:
        ConfigError: an unusable probe or store, one that was made for another model, or nothing unseen to measure on.
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
    return ProbeEvaluation(report, evaluation.samples, evaluation.scores)


def measure(probe: LoraProbe, store: SampleStore) -> ProbeEvaluation:
    """Figures on what training never saw; raises ValueError when the store does not fit the probe or all of it was seen."""
    _check_same_model(probe.meta, store)
    samples = read_features(store, feature_blocks(probe.meta.feature, probe.meta.layers))
    seen = probe.meta.training
    samples, num_seen = exclude_seen(samples, seen.get("families", ()), seen.get("clients", ()))
    scores = probe.score_features(samples.features)
    report = {"num_excluded_as_seen": num_seen, **evaluate_scores(scores, samples, probe.meta.threshold)}
    return ProbeEvaluation(report, samples, scores)


def headline(report: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a report without intervals and breakdowns."""
    return {name: report[name] for name in _RATES}


def _fitting_store(folder: Path, meta: StoreMeta) -> SampleStore:
    store = SampleStore.open(folder)
    if store.meta != meta:
        raise ValueError(
            f"probe.calibration_store={folder} was collected with another model, LoRA, recipe or collect.modules than the "
            "training store; collect both with the same settings"
        )
    return store


def _check_same_model(meta: ProbeMeta, store: SampleStore) -> None:
    for what, probes, stores in (
        ("base model", meta.model_fingerprint, store.meta.model_fingerprint),
        ("LoRA settings and initial adapter", meta.lora_fingerprint, store.meta.lora_fingerprint),
    ):
        if probes != stores:
            raise ValueError(
                f"the probe was made for {what} {probes}, the store {store.folder} was collected with {stores}; "
                "evaluate it on a store of the same model and lora settings"
            )
