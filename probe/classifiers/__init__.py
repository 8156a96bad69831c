"""Classifiers of features: each has `score(features) -> P(malicious)` and `files()`, and is loaded from those files.

A row is scored by itself in a fixed order, so a score does not depend on what else is scored in the same call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from probe.classifiers.boosted import BoostedProbe
from probe.classifiers.layerwise import LayerwiseProbe
from probe.classifiers.linear import LinearProbe


class Classifier(Protocol):
    """From features to probabilities."""

    def score(self, features: np.ndarray) -> np.ndarray:
        """P(malicious) (n,) float64 of features (n, d)."""

    @property
    def num_values(self) -> int:
        """d."""

    def files(self) -> dict[str, bytes]:
        """File name -> content; safetensors or UBJSON, never a pickle."""


LOADERS: dict[str, Callable[[Mapping[str, bytes]], Classifier]] = {
    "linear": LinearProbe.load,
    "layerwise": LayerwiseProbe.load,
    "xgboost": BoostedProbe.load,
}
"""Classifier name in `probe.json` -> from its files to the classifier. Each raises ValueError on unusable content."""
