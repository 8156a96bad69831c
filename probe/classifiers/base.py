"""What a classifier is to the rest of the package: how it scores, how it is fitted, and its defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from probe.samples import Samples

_Classifier = TypeVar("_Classifier", bound="Classifier")


class Classifier(Protocol):
    """From features to probabilities.

    A row is scored by itself in a fixed order, so a score does not depend on what else is scored in the same call.
    """

    def score(self, features: np.ndarray) -> np.ndarray:
        """P(malicious) (n,) float64 of features (n, d)."""
        ...

    @property
    def num_values(self) -> int:
        """d: how many values a feature has."""
        ...

    def files(self) -> dict[str, bytes]:
        """File name -> content; safetensors or UBJSON, never a pickle."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """What a classifier is fitted to."""

    samples: Samples
    held_out: Sequence[np.ndarray]
    """Masks (n,) of rows: one is a validation split; several hold out every row once."""
    feature: str
    sizes: Sequence[int]
    """Number of values of each block of the feature; they sum to d."""
    calibration: Samples | None = None
    """Samples of other families and clients to calibrate on; None: the held-out rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierSpec:
    """A line of the table in `probe.classifiers`."""

    name: str
    """Its name in `probe.json`."""
    choice: str
    """The value of `probe.classifier` that selects it, and the key `probe.<choice>` of its settings, if it has any."""
    features: tuple[str, ...]
    """The features that it can be fitted to; the first where `probe.feature` is not set."""
    fit: Callable[[TrainingData, Any], tuple[Classifier, np.ndarray]]
    """From the data and its settings to the classifier and the held-out scores (n,), as `cross_fit` returns them."""
    load: Callable[[Mapping[str, bytes]], Classifier]
    """From `Classifier.files()` to the classifier; raises ValueError when they cannot be used."""
    num_folds: int = 4
    """Fits of a training where `probe.folds` is not set."""
    target_fpr: float | None = 0.01
    """What sets the threshold where `probe.target_fpr` is not set; None: the paper's threshold."""
    calibrated: bool = False
    """Whether Platt scaling follows where `probe.calibrate` is not set."""
    libraries: tuple[str, ...] = ()
    """Packages beside torch and numpy that make it; the artefact records their versions."""


def cross_fit(
    features: np.ndarray, held_out: Sequence[np.ndarray], fit_each: Callable[[Sequence[np.ndarray]], Sequence[_Classifier]]
) -> tuple[_Classifier, np.ndarray]:
    """The classifier, and the scores (n,) of held-out rows by fits that did not see them, NaN for the other rows.

    A single mask is the classifier's own validation split. Several masks hold out every row once; then the classifier is
    fitted to all rows.

    Args:
        fit_each: For each mask (n,) the classifier fitted to the rows outside it.
    """
    scores, nothing = np.full(len(features), np.nan), np.zeros(len(features), dtype=bool)
    fits = fit_each(held_out if len(held_out) == 1 else [*held_out, nothing])
    for mask, classifier in zip(held_out, fits, strict=False):
        scores[mask] = classifier.score(features[mask])
    return fits[-1], scores
