"""`probe.json`: what a probe was made for and from. No torch here: the driver reads it."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from probe.calibration import Calibration
from probe.evaluation import Figures

SCHEMA_VERSION = 1
META_FILE = "probe.json"


class TrainingSummary(TypedDict):
    """What a probe was fitted to, and how. `families` and `clients` are all that a fit, early stopping or calibration saw."""

    num_samples: int
    num_clients: dict[str, int]
    """`benign` and `malicious` -> how many clients."""
    families: list[str]
    clients: list[str]
    states: list[str]
    num_held_out: int
    """Clients that a fit held out."""
    held_out_families: list[list[str]]
    """Of each fit."""
    calibration_families: list[str]
    config: dict[str, object]
    """`ProbeTraining` as JSON."""
    versions: dict[str, str]
    """Of the libraries that made the classifier."""
    origin: NotRequired[str]
    """Where the samples of a refresh come from."""


class Metrics(Figures):
    """Figures on families and clients that no fit learned from."""

    on: str
    """Which families."""
    num_samples: NotRequired[int]
    last_step: NotRequired[dict[str, float | None]]
    """`roc_auc`, `tpr` and `fpr` of the samples of the last local step; None where a class is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeMeta:
    """What a probe was made for and from."""

    classifier: str
    """Its name in `probe.classifiers.CLASSIFIERS`."""
    feature: str
    """Name of the feature that it reads."""
    shapes: Mapping[str, tuple[int, ...]]
    """PEFT parameter name -> shape of each tensor that the feature reads."""
    layers: Mapping[str, int]
    """PEFT parameter name -> transformer layer of each of them."""
    model_fingerprint: str
    lora_fingerprint: str
    threshold: float
    """Decision threshold on P(malicious)."""
    recipe: Mapping[str, float]
    """Local training of the clients that the samples come from: learning_rate, steps, batch_size, weight_decay ..."""
    calibration: Calibration | None = None
    """Platt scaling of the classifier's scores; None: they are taken as they are."""
    version: int = 1
    training: TrainingSummary = field(default_factory=lambda: cast(TrainingSummary, {}))
    metrics: Metrics = field(default_factory=lambda: cast(Metrics, {}))
    """Empty, as `training` and `scores` are, for a probe that `probe.training` did not make."""
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """`benign` and `malicious` -> quantiles of held-out scores, with which a run's scores are compared."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Name -> sha256 of each file with the classifier's numbers."""


def encode_meta(meta: ProbeMeta) -> bytes:
    """The content of `probe.json`."""
    document = {"schema_version": SCHEMA_VERSION, **asdict(meta)}
    return (json.dumps(document, indent=2) + "\n").encode()


def load_meta(folder: Path) -> ProbeMeta:
    """Read `probe.json`; raises ValueError when the folder holds no usable one, with the folder and what is wrong."""
    path = folder / META_FILE
    if not path.is_file():
        raise ValueError(f"probe.path={folder}: no {META_FILE} there; give the folder of a probe artefact")
    try:
        document = decode_document(path.read_text(), SCHEMA_VERSION)
        document["calibration"] = Calibration(**document["calibration"]) if document.get("calibration") else None
        if not 0 < document["threshold"] < 1:
            raise ValueError(f"threshold {document['threshold']} is not between 0 and 1")
        return ProbeMeta(**document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"probe.path={folder}: {META_FILE} cannot be used: {error}") from error


def decode_document(content: str, schema_version: int) -> dict[str, Any]:
    """The JSON object without its schema_version, `shapes` as tuples; raises ValueError, KeyError, TypeError, AttributeError."""
    document = json.loads(content)
    version = document.pop("schema_version", None)
    if version != schema_version:
        raise ValueError(f"schema_version {version} is not the supported {schema_version}")
    return {**document, "shapes": {name: tuple(map(operator.index, shape)) for name, shape in document["shapes"].items()}}
