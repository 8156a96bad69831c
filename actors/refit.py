"""Refitting the probe on labelled reference clients that trained from the current global adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from actors.messages import StepDelta
from defense.admission.checks import check_finite, check_tensors
from probe.artefact import LoraProbe
from probe.classifiers import CLASSIFIERS
from probe.config import ProbeTraining
from probe.features import extract, feature_blocks
from probe.meta import ProbeMeta, TrainingSummary
from probe.samples import ReferenceLabel, Samples
from probe.store_meta import StoreMeta
from probe.training import train_probe

_FOLDS = 4


class ReferenceSamples:
    """Features of the reference clients' step deltas, collected as they arrive."""

    def __init__(self, meta: ProbeMeta) -> None:
        self._meta, self._blocks = meta, feature_blocks(meta.feature, meta.layers)
        self._rows: dict[tuple[str, int], tuple[ReferenceLabel, np.ndarray]] = {}

    def add(self, label: ReferenceLabel, delta: StepDelta) -> None:
        """Raises ValueError when a delta is not what the probe reads."""
        refusal = check_tensors(delta.tensors, self._meta.shapes) or check_finite(delta.tensors)
        if refusal is not None:
            raise ValueError(f"reference client {label.client}, step {delta.step}: {refusal}")
        self._rows[label.client, delta.step] = label, extract(self._blocks, delta.tensors)

    def samples(self) -> Samples:
        """In order of client and step, whatever the order of arrival; raises ValueError when there are none."""
        if not self._rows:
            raise ValueError("no reference client delivered a sample")
        rows = [(client, step, *self._rows[client, step]) for client, step in sorted(self._rows)]
        clients, steps, labels, features = zip(*rows, strict=True)
        return Samples(
            features=np.stack(features),
            labels=np.array([int(label.malicious) for label in labels]),
            clients=np.array(clients),
            families=np.array([label.family for label in labels]),
            steps=np.array(steps),
            states=np.full(len(rows), "current"),
        )


def refit(
    meta: ProbeMeta,
    samples: Samples,
    recipe: Mapping[str, float],
    origin: str,
) -> LoraProbe:
    """A probe of the next version, trained as the one with `meta` was, on other samples.

    A refresh has few reference clients of few families, of which none can be spared for a validation split: the probe is
    fitted to all of them, and measured by fits that hold out other families each.

    Args:
        recipe: Local training that the samples come from.
        origin: Where they come from, for the artefact's summary.

    Raises:
        ValueError: as `probe.training.train_probe`.
    """
    choice = {"classifier": CLASSIFIERS[meta.classifier].choice, "feature": meta.feature}
    settings = ProbeTraining.model_validate({**meta.training.get("config", {}), **choice})
    settings = settings.model_copy(update={"folds": max(settings.folds or 1, _FOLDS)})
    store = StoreMeta(
        shapes=meta.shapes,
        layers=meta.layers,
        model_fingerprint=meta.model_fingerprint,
        lora_fingerprint=meta.lora_fingerprint,
        recipe=recipe,
    )
    probe = train_probe(samples, store, settings)
    training: TrainingSummary = {**probe.meta.training, "origin": origin}
    return LoraProbe(replace(probe.meta, version=meta.version + 1, training=training), probe.classifier)
