"""Gradient-boosted trees on cosines to the class means, or on the feature itself (native XGBoost, kept as UBJSON).

Trees split on single numbers, and single numbers of a high-dimensional update say little; the cosine of each module's
delta to the mean delta of a class says much (measured in the embedded world: AUC 1.0 against 0.98 for raw values).
XGBoost takes a second to import, so it is imported where trees are needed; a linear probe does not need it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, PositiveFloat, PositiveInt

from probe.calibration import sigmoid
from probe.classifiers.base import ClassifierSpec, TrainingData, cross_fit
from probe.classifiers.cosines import ClassMeans, cross_fitted_cosines
from probe.classifiers.numbers import check_finite
from probe.samples import Samples

if TYPE_CHECKING:
    import xgboost

_TREES_FILE = "probe.ubj"
_COSINES = "module_cosines"
"""The feature whose blocks are compared with class means; of the others the trees read the values."""


class BoostedSettings(BaseModel, extra="forbid", frozen=True):
    """How the trees are fitted. Depth 1 and 80 trees were the best of a study on the embedded world."""

    num_trees: PositiveInt = 80
    max_depth: PositiveInt = 1
    learning_rate: PositiveFloat = 0.3
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class BoostedProbe:
    """A `Classifier`: P(malicious) = sigmoid(sum of the trees)."""

    booster: xgboost.Booster
    means: ClassMeans | None
    """Set when the trees read cosines to these means; None when they read the feature itself."""

    def score(self, features: np.ndarray) -> np.ndarray:
        """Raises ValueError on a value that is not finite, which XGBoost would take for missing."""
        check_finite(features)
        inputs = self.means.cosines(features) if self.means else np.asarray(features, dtype=np.float32)
        margins = self.booster.inplace_predict(inputs, predict_type="margin")
        return np.array([sigmoid(float(margin)) for margin in margins])

    def files(self) -> dict[str, bytes]:
        return {_TREES_FILE: bytes(self.booster.save_raw("ubj")), **(self.means.files() if self.means else {})}

    @staticmethod
    def load(files: Mapping[str, bytes]) -> BoostedProbe:
        """XGBoost checks little of what it reads: a damaged file can hang or end the process. So `probe.artefact` compares
        each file with its hash first, and this function refuses a file that was cut off."""
        booster = _load_booster(files.get(_TREES_FILE, b""))
        means = ClassMeans.load(files) if len(files) > 1 else None
        if means and booster.num_features() != 2 * len(means.sizes):
            raise ValueError(f"{_TREES_FILE} reads {booster.num_features()} cosines, the class means give {2 * len(means.sizes)}")
        return BoostedProbe(booster, means)

    @property
    def num_values(self) -> int:
        return self.means.num_values if self.means else self.booster.num_features()


def _load_booster(content: bytes) -> xgboost.Booster:
    import xgboost

    if not (content.startswith(b"{") and content.endswith(b"}")):
        raise ValueError(f"{_TREES_FILE} cannot be used: it is missing, cut off or no UBJSON")
    booster = xgboost.Booster({"nthread": 1})
    try:
        booster.load_model(bytearray(content))
    except xgboost.core.XGBoostError as error:
        raise ValueError(f"{_TREES_FILE} cannot be used: {str(error).splitlines()[0]}") from error
    return booster


def fit_boosted(samples: Samples, rows: np.ndarray, sizes: Sequence[int] | None, settings: BoostedSettings) -> BoostedProbe:
    """Fit trees to the rows of the mask `rows` (n,).

    Args:
        sizes: Values of each block, to read cosines to the class means; None: read the feature itself.

    Raises:
        ValueError: a feature that is not finite.
    """
    import xgboost

    check_finite(samples.features)
    if sizes is None:
        inputs, means = np.asarray(samples.features, dtype=np.float32), None
    else:
        inputs, means = cross_fitted_cosines(samples, sizes, rows)
    labels = samples.labels[rows]
    num_malicious = int(labels.sum())
    booster = xgboost.train(
        {
            "objective": "binary:logistic",
            "max_depth": settings.max_depth,
            "eta": settings.learning_rate,
            "scale_pos_weight": (len(labels) - num_malicious) / num_malicious,
            "seed": settings.seed,
            "nthread": 1,
        },
        xgboost.DMatrix(inputs[rows], label=labels),
        num_boost_round=settings.num_trees,
    )
    return BoostedProbe(booster, means)


def cross_fit_boosted(data: TrainingData, settings: BoostedSettings) -> tuple[BoostedProbe, np.ndarray]:
    """See `ClassifierSpec.fit`; a single mask only measures, since trees do not stop early."""
    sizes = data.sizes if data.feature == _COSINES else None

    def fit_each(masks: Sequence[np.ndarray]) -> list[BoostedProbe]:
        return [fit_boosted(data.samples, ~mask, sizes, settings) for mask in masks]

    return cross_fit(data.samples.features, data.held_out, fit_each)


SPEC = ClassifierSpec(
    name="xgboost",
    choice="xgboost",
    features=(_COSINES, "first_layer_b", "all_layers"),
    fit=cross_fit_boosted,
    load=BoostedProbe.load,
    calibrated=True,
    libraries=("xgboost",),
)
