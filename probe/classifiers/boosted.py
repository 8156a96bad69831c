"""Gradient-boosted trees on cosines to the class means, or on the feature itself (native XGBoost, kept as UBJSON).

Trees split on single numbers, and single numbers of a high-dimensional update say little; the cosine of each module's
delta to the mean delta of a class says much (FEASIBILITY of the embedded world: AUC 1.0 against 0.98 for raw values).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xgboost

from probe.classifiers.cosines import ClassMeans, fit_means
from probe.classifiers.numbers import check_finite
from probe.config import BoostedRecipe
from probe.logistic import sigmoid

_TREES_FILE = "probe.ubj"


@dataclass(frozen=True, slots=True, eq=False)
class BoostedProbe:
    """P(malicious) = sigmoid(sum of the trees)."""

    booster: xgboost.Booster
    means: ClassMeans | None
    """Set when the trees read cosines to these means; None when they read the feature itself."""

    def score(self, features: np.ndarray) -> np.ndarray:
        """See `probe.classifiers`; raises ValueError on a value that is not finite, which XGBoost would take for missing."""
        margins = self.booster.inplace_predict(_inputs(features, self.means), predict_type="margin")
        return np.array([sigmoid(float(margin)) for margin in margins])

    def files(self) -> dict[str, bytes]:
        """See `probe.classifiers`."""
        return {_TREES_FILE: bytes(self.booster.save_raw("ubj")), **(self.means.files() if self.means else {})}

    @staticmethod
    def load(files: Mapping[str, bytes]) -> BoostedProbe:
        """From `files()`; raises ValueError when they cannot be used.

        XGBoost checks little of what it reads: a damaged file can hang or end the process. So `probe.artefact` compares
        each file with its hash first, and a file that was cut off is refused here.
        """
        booster = _load_booster(files.get(_TREES_FILE, b""))
        means = ClassMeans.load(files) if len(files) > 1 else None
        if means and booster.num_features() != 2 * len(means.sizes):
            raise ValueError(f"{_TREES_FILE} reads {booster.num_features()} cosines, the class means give {2 * len(means.sizes)}")
        return BoostedProbe(booster, means)

    @property
    def num_values(self) -> int:
        """d: how many values a feature has."""
        return self.means.num_values if self.means else self.booster.num_features()


def _load_booster(content: bytes) -> xgboost.Booster:
    if not (content.startswith(b"{") and content.endswith(b"}")):
        raise ValueError(f"{_TREES_FILE} cannot be used: it is missing, cut off or no UBJSON")
    booster = xgboost.Booster({"nthread": 1})
    try:
        booster.load_model(bytearray(content))
    except xgboost.core.XGBoostError as error:
        raise ValueError(f"{_TREES_FILE} cannot be used: {str(error).splitlines()[0]}") from error
    return booster


def _inputs(features: np.ndarray, means: ClassMeans | None) -> np.ndarray:
    """What the trees read."""
    check_finite(features)
    return means.cosines(features) if means else np.asarray(features, dtype=np.float32)


def fit_boosted(
    features: np.ndarray, labels: np.ndarray, validation: np.ndarray, sizes: Sequence[int] | None, recipe: BoostedRecipe
) -> BoostedProbe:
    """Fit trees with early stopping on the rows of the mask `validation` (n,).

    Args:
        features: (n, d) float32.
        labels: (n,) 1 for malicious, 0 for benign.
        sizes: Values of each block, to read cosines to the class means; None to read the feature itself.

    Raises:
        ValueError: a feature that is not finite.
    """
    means = fit_means(features[~validation], labels[~validation], sizes) if sizes is not None else None
    inputs = _inputs(features, means)
    train = xgboost.DMatrix(inputs[~validation], label=labels[~validation])
    held = xgboost.DMatrix(inputs[validation], label=labels[validation])
    num_malicious = int(labels[~validation].sum())
    booster = xgboost.train(
        {
            "objective": "binary:logistic",
            "eval_metric": "logloss",
            "max_depth": recipe.max_depth,
            "eta": recipe.learning_rate,
            "scale_pos_weight": (len(labels[~validation]) - num_malicious) / num_malicious,
            "seed": recipe.seed,
            "nthread": 1,
        },
        train,
        num_boost_round=recipe.num_trees,
        evals=[(held, "validation")],
        early_stopping_rounds=recipe.patience,
        verbose_eval=False,
    )
    return BoostedProbe(booster[: booster.best_iteration + 1], means)
