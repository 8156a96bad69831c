"""`probe.json`: what a probe was made for and from. No torch here: the driver reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, cast

from pydantic import BaseModel, Field, FiniteFloat, NonNegativeInt, PositiveInt, StringConstraints, ValidationError

from probe.calibration import Calibration
from probe.config import ProbeTraining
from probe.evaluation import Figures
from probe.names import PLAIN
from probe.samples import CLASSES

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
    references: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    """Column of rounds.parquet -> `benign` and `malicious` -> what was measured of the final delta of each reference client, in
    order of client and adapter state; the score is the probe's own, which was fitted to it. A run's bounds begin with them."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Name -> sha256 of each file with the classifier's numbers."""

    @property
    def purpose(self) -> tuple[object, ...]:
        """What the probe reads, and of which model and LoRA: a refresh changes nothing of it."""
        return self.feature, dict(self.shapes), dict(self.layers), self.model_fingerprint, self.lora_fingerprint


_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Name = Annotated[str, StringConstraints(pattern=f"^{PLAIN.pattern}$")]
_Index = Annotated[int, Field(ge=0, lt=2**31)]
_Size = Annotated[int, Field(ge=0, lt=2**31)]


class _Training(BaseModel, extra="allow", strict=True):
    """The types of `TrainingSummary`; any field may be absent."""

    num_samples: NonNegativeInt = 0
    num_clients: dict[str, NonNegativeInt] = {}
    families: list[str] = []
    clients: list[str] = []
    states: list[str] = []
    num_held_out: NonNegativeInt = 0
    held_out_families: list[list[str]] = []
    calibration_families: list[str] = []
    config: ProbeTraining = ProbeTraining()
    versions: dict[str, str] = {}
    origin: str = ""


class _Metrics(BaseModel, extra="allow", strict=True):
    """The types of `Metrics`; any field may be absent."""

    on: str = ""
    roc_auc: float | None = None
    pr_auc: float | None = None
    tpr: float | None = None
    fpr: float | None = None
    brier: float | None = None
    expected_calibration_error: float | None = None
    num_samples: NonNegativeInt = 0
    last_step: dict[str, float | None] = {}


class _Calibration(BaseModel, extra="forbid", strict=True):
    slope: FiniteFloat
    intercept: FiniteFloat


class _Shared(BaseModel, extra="forbid", strict=True):
    """What `probe.json` and `store.json` share."""

    shapes: dict[str, Annotated[list[_Size], Field(max_length=8)]]
    layers: dict[str, _Index]
    model_fingerprint: str
    lora_fingerprint: str
    recipe: dict[str, bool | FiniteFloat | int]


class _Document(_Shared):
    """`probe.json` without its schema_version."""

    classifier: str
    feature: str
    threshold: Annotated[float, Field(gt=0, lt=1)]
    calibration: _Calibration | None = None
    version: PositiveInt = 1
    training: _Training = _Training()
    metrics: _Metrics = _Metrics()
    scores: dict[str, list[FiniteFloat]] = {}
    references: dict[str, dict[str, list[FiniteFloat]]] = {}
    files: dict[_Name, _Sha256] = {}


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
        return decode_meta(path.read_bytes())
    except (ValueError, OSError) as error:
        raise ValueError(f"probe.path={folder}: {META_FILE} cannot be used: {error}") from error


def decode_meta(content: bytes) -> ProbeMeta:
    """What `encode_meta` wrote; raises ValueError for anything else."""
    document = decode_document(content, SCHEMA_VERSION, _Document)
    if set(document["shapes"]) != set(document["layers"]):
        raise ValueError("shapes and layers do not name the same tensors")
    classes = [name for _, name in CLASSES]
    if document.get("scores") and (set(document["scores"]) != set(classes) or not all(document["scores"].values())):
        raise ValueError(f"scores should hold quantiles of {' and '.join(classes)}")
    for column, values in document.get("references", {}).items():
        if set(values) != set(classes):
            raise ValueError(f"references.{column} should hold the values of {' and '.join(classes)} reference clients")
    if document.get("calibration") is not None:
        document["calibration"] = Calibration(**document["calibration"])
    return ProbeMeta(**document)


def decode_document(content: bytes, schema_version: int, schema: type[_Shared] = _Shared) -> dict[str, Any]:
    """The JSON object without its schema_version, `shapes` as tuples; raises ValueError for one that is not as `schema` says."""
    try:
        document = json.loads(content)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error
    if not isinstance(document, dict):
        raise ValueError(f"it holds a {type(document).__name__}, not an object")
    version = document.pop("schema_version", None)
    if version != schema_version:
        raise ValueError(f"schema_version {version} is not the supported {schema_version}")
    try:
        schema.model_validate(document)
    except ValidationError as error:
        raise ValueError("; ".join(_fault(fault["loc"], fault["msg"], fault["input"]) for fault in error.errors()[:3])) from error
    return {**document, "shapes": {name: tuple(shape) for name, shape in document["shapes"].items()}}


def _fault(place: tuple[int | str, ...], message: str, value: object) -> str:
    return f"{'.'.join(map(str, place))}: {message[0].lower()}{message[1:]}, got {value!r:.80}"
