"""The probe on disk: `probe.json` says what it is, safetensors or UBJSON hold its numbers. No pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from probe.classifiers import CLASSIFIERS
from probe.classifiers.base import Classifier
from probe.features import Block, extract, feature_blocks, tensor_names
from probe.meta import META_FILE, ProbeMeta, encode_meta, load_meta
from probe.names import plain_name


@dataclass(frozen=True, eq=False)
class LoraProbe:
    """A classifier with the feature it reads."""

    meta: ProbeMeta
    classifier: Classifier

    def score(self, deltas: Sequence[Mapping[str, torch.Tensor]]) -> list[float]:
        """P(malicious) of each delta; each holds at least the tensors of `meta.shapes`."""
        return self.score_features(np.stack([extract(self._blocks, delta) for delta in deltas])).tolist()

    def score_features(self, features: np.ndarray) -> np.ndarray:
        """P(malicious) (n,) float64 of features (n, d)."""
        scores = self.classifier.score(features)
        return self.meta.calibration.apply(scores) if self.meta.calibration else scores

    @cached_property
    def _blocks(self) -> tuple[Block, ...]:
        return feature_blocks(self.meta.feature, self.meta.layers)


def probe_files(probe: LoraProbe) -> dict[str, bytes]:
    """File name -> content of the artefact; `probe.json`, the last, holds the hash of every other file."""
    files = probe.classifier.files()
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return {**files, META_FILE: encode_meta(dataclasses.replace(probe.meta, files=hashes))}


def save_probe(folder: Path, probe: LoraProbe) -> None:
    """Write the artefact."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in probe_files(probe).items():
        (folder / name).write_bytes(content)


def load_probe(folder: Path) -> LoraProbe:
    """Raises ValueError for missing or damaged files, a changed file (hash mismatch), an unknown feature or classifier."""
    meta = load_meta(folder)
    if meta.classifier not in CLASSIFIERS:
        raise ValueError(f"probe.path={folder}: unknown classifier {meta.classifier!r}; known: {sorted(CLASSIFIERS)}")
    try:
        feature_blocks(meta.feature, meta.layers)
        files = {name: _read(folder, name, sha) for name, sha in meta.files.items()}
        classifier = CLASSIFIERS[meta.classifier].load(files)
    except ValueError as error:
        raise ValueError(f"probe.path={folder}: {error}") from error
    read = set(tensor_names(meta.feature, meta.layers))
    if read != set(meta.shapes):
        raise ValueError(f"probe.path={folder}: the feature {meta.feature} reads other tensors than `shapes` has")
    expected = sum(math.prod(shape) for shape in meta.shapes.values())
    if classifier.num_values != expected:
        raise ValueError(f"probe.path={folder}: the classifier reads {classifier.num_values} values, the feature has {expected}")
    return LoraProbe(meta, classifier)


def _read(folder: Path, name: str, sha256: str) -> bytes:
    path = folder / plain_name(name)
    if not path.is_file():
        raise ValueError(f"{name} is missing; rebuild or copy the whole folder")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{name} is not the file that probe.json was written for (hash mismatch)")
    return content
