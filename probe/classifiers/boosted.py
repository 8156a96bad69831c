"""Gradient-boosted trees on cosines to the class means, or on the feature itself (native XGBoost, kept as UBJSON).

Trees split on single numbers, and single numbers of a high-dimensional update say little; the cosine of each module's
delta to the mean delta of a class says much (FEASIBILITY of the embedded world: AUC 1.0 against 0.98 for raw values).
XGBoost takes a second to import, so it is imported where trees are: a linear probe never does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from probe.classifiers.cosines import ClassMeans, cross_fitted_cosines
from probe.classifiers.numbers import check_finite
from probe.config import BoostedRecipe
from probe.logistic import sigmoid

if TYPE_CHECKING:
    import xgboost

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
    import xgboost

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


def cross_fit_boosted(
    features: np.ndarray,
    labels: np.ndarray,
    clients: np.ndarray,
    held_out: Sequence[np.ndarray],
    sizes: Sequence[int] | None,
    recipe: BoostedRecipe,
) -> tuple[BoostedProbe, np.ndarray]:
    """Trees on the rows that no single mask holds out, and the scores (n,) of held-out rows by trees that did not see them.

    With several masks, which hold out every row once, the trees are those of all rows. Rows that no mask holds have the
    score NaN.
    """
    scores, probe = np.full(len(labels), np.nan), None
    for mask in held_out:
        probe = fit_boosted(features, labels, clients, ~mask, sizes, recipe)
        scores[mask] = probe.score(features[mask])
    if len(held_out) > 1:
        probe = fit_boosted(features, labels, clients, np.ones(len(labels), dtype=bool), sizes, recipe)
    return probe, scores


def fit_boosted(
    features: np.ndarray,
    labels: np.ndarray,
    clients: np.ndarray,
    rows: np.ndarray,
    sizes: Sequence[int] | None,
    recipe: BoostedRecipe,
) -> BoostedProbe:
    """Fit trees to the rows of the mask `rows` (n,).

    Args:
        features: (n, d) float32.
        labels: (n,) 1 for malicious, 0 for benign.
        clients: (n,) the client of each sample.
        sizes: Values of each block, to read cosines to the class means; None to read the feature itself.

    Raises:
        ValueError: a feature that is not finite.
    """
    import xgboost

    check_finite(features)
    if sizes is None:
        inputs, means = np.asarray(features, dtype=np.float32), None
    else:
        inputs, means = cross_fitted_cosines(features, labels, clients, sizes, rows)
    num_malicious = int(labels[rows].sum())
    booster = xgboost.train(
        {
            "objective": "binary:logistic",
            "max_depth": recipe.max_depth,
            "eta": recipe.learning_rate,
            "scale_pos_weight": (int(rows.sum()) - num_malicious) / num_malicious,
            "seed": recipe.seed,
            "nthread": 1,
        },
        xgboost.DMatrix(inputs[rows], label=labels[rows]),
        num_boost_round=recipe.num_trees,
    )
    return BoostedProbe(booster, means)
