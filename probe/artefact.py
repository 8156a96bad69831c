"""The probe on disk: `probe.json` says what it is, safetensors hold its numbers. No pickle."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from probe.features import FEATURES
from probe.linear import LinearProbe
from probe.meta import ProbeMeta, load_meta, write_meta

_WEIGHTS = "probe.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class LoraProbe:
    """A classifier with the feature it reads."""

    meta: ProbeMeta
    classifier: LinearProbe

    def score(self, deltas: Sequence[Mapping[str, torch.Tensor]]) -> list[float]:
        """P(malicious) of each delta; each holds exactly the tensors of `meta.shapes`."""
        extract = FEATURES[self.meta.feature].extract
        return self.classifier.score(np.stack([extract(delta) for delta in deltas])).tolist()


def save_probe(folder: Path, probe: LoraProbe) -> None:
    """Write the artefact; the hash of the numbers stands in `probe.json`, which is written last."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({"weight": probe.classifier.weight, "bias": np.array([probe.classifier.bias], dtype=np.float64)})
    (folder / _WEIGHTS).write_bytes(weights)
    write_meta(folder, dataclasses.replace(probe.meta, sha256=hashlib.sha256(weights).hexdigest()))


def load_probe(folder: Path) -> LoraProbe:
    """Load an artefact.

    Raises:
        ValueError: missing or damaged files, a changed file (hash mismatch), an unknown feature or classifier.
    """
    meta, weights_path = load_meta(folder), folder / _WEIGHTS
    if meta.classifier != "linear":
        raise ValueError(f"probe.path={folder}: unknown classifier {meta.classifier!r}; known: linear")
    if meta.feature not in FEATURES:
        raise ValueError(f"probe.path={folder}: unknown feature {meta.feature!r}; known: {sorted(FEATURES)}")
    if not weights_path.is_file():
        raise ValueError(f"probe.path={folder}: {_WEIGHTS} is missing; rebuild or copy the whole folder")
    weights = weights_path.read_bytes()
    if hashlib.sha256(weights).hexdigest() != meta.sha256:
        raise ValueError(f"probe.path={folder}: {_WEIGHTS} is not the file that probe.json was written for (hash mismatch)")
    try:
        numbers = load(weights)
        classifier = LinearProbe(weight=numbers["weight"], bias=numbers["bias"].item())
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"probe.path={folder}: {_WEIGHTS} cannot be used: {error}") from error
    expected = sum(int(np.prod(shape)) for shape in meta.shapes.values())
    if classifier.weight.shape != (expected,):
        raise ValueError(
            f"probe.path={folder}: {_WEIGHTS} has {classifier.weight.shape} weights for a feature of {expected} values"
        )
    if not (np.isfinite(classifier.weight).all() and np.isfinite(classifier.bias)):
        raise ValueError(f"probe.path={folder}: {_WEIGHTS} holds NaN or infinity; train the probe again")
    return LoraProbe(meta, classifier)
