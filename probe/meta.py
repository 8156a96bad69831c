"""`probe.json`: what a probe was made for and from. No torch here: the driver reads it."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
META_FILE = "probe.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeMeta:
    """What a probe was made for and from."""

    classifier: str
    """`linear`, `layerwise` or `xgboost`."""
    feature: str
    """Name of the feature it reads."""
    shapes: Mapping[str, tuple[int, ...]]
    """PEFT parameter name -> shape of each tensor the feature reads."""
    layers: Mapping[str, int]
    """PEFT parameter name -> transformer layer of each of them."""
    model_fingerprint: str
    lora_fingerprint: str
    threshold: float
    """Decision threshold on P(malicious)."""
    recipe: Mapping[str, Any]
    """Local training the samples were collected with: learning_rate, steps, batch_size, weight_decay."""
    calibration: Mapping[str, float] | None = None
    """`slope` and `intercept` of Platt scaling; None: scores are taken as they are."""
    version: int = 1
    training: Mapping[str, Any] = field(default_factory=dict)
    """Summary of the training data and of the fit."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Figures on families and clients that training never saw."""
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """`benign` and `malicious` -> quantiles of held-out scores, which a run's scores are watched against."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Name -> sha256 of each file with the classifier's numbers."""


def encode_meta(meta: ProbeMeta) -> bytes:
    """The content of `probe.json`."""
    document = {"schema_version": SCHEMA_VERSION, **asdict(meta)}
    return (json.dumps(document, indent=2) + "\n").encode()


def load_meta(folder: Path) -> ProbeMeta:
    """Read `probe.json`.

    Raises:
        ValueError: the folder holds no readable probe; names the folder and what is wrong.
    """
    path = folder / META_FILE
    if not path.is_file():
        raise ValueError(f"probe.path={folder}: no {META_FILE} there; give the folder of a probe artefact")
    try:
        document = json.loads(path.read_text())
        version = document.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise ValueError(f"schema_version {version} is not the supported {SCHEMA_VERSION}")
        document["shapes"] = {name: tuple(map(operator.index, shape)) for name, shape in document["shapes"].items()}
        if not 0 < document["threshold"] < 1:
            raise ValueError(f"threshold {document['threshold']} is not between 0 and 1")
        return ProbeMeta(**document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"probe.path={folder}: {META_FILE} cannot be used: {error}") from error
