"""One linear probe per block (layer) of the feature; the verdict is the calibrated maximum (METHOD.md section 8).

Each layer's logit is calibrated before the maximum is taken, so that a layer whose probabilities run high by nature does
not decide alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probe.calibration import Calibration, fit_calibration
from probe.classifiers.cross_fit import cross_fit_linear
from probe.classifiers.linear import LinearProbe
from probe.classifiers.numbers import NUMBERS_FILE, as_sizes, read_numbers, write_numbers
from probe.config import LinearRecipe
from probe.samples import Samples


@dataclass(frozen=True, slots=True, eq=False)
class LayerwiseProbe:
    """P(malicious) = max over blocks of the block's calibrated probability."""

    probes: tuple[LinearProbe, ...]
    """One per block, in the feature's order of blocks."""
    calibrations: tuple[Calibration, ...]

    def score(self, features: np.ndarray) -> np.ndarray:
        """See `probe.classifiers`."""
        return self.score_by_block(features).max(axis=1)

    def score_by_block(self, features: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (n, number of blocks): which layer gave an update away."""
        ends = np.cumsum([probe.num_values for probe in self.probes])
        columns = [
            calibration.apply(probe.score(features[:, end - probe.num_values : end]))
            for probe, calibration, end in zip(self.probes, self.calibrations, ends, strict=True)
        ]
        return np.stack(columns, axis=1)

    def files(self) -> dict[str, bytes]:
        """See `probe.classifiers`."""
        return write_numbers(
            {
                "weight": np.concatenate([probe.weight for probe in self.probes]),
                "bias": np.array([probe.bias for probe in self.probes]),
                "num_values": np.array([probe.num_values for probe in self.probes]),
                "slope": np.array([calibration.slope for calibration in self.calibrations]),
                "intercept": np.array([calibration.intercept for calibration in self.calibrations]),
            }
        )

    @staticmethod
    def load(files: Mapping[str, bytes]) -> LayerwiseProbe:
        """From `files()`; raises ValueError when they cannot be used."""
        weight, bias, sizes, slope, intercept = read_numbers(files, "weight", "bias", "num_values", "slope", "intercept")
        if weight.ndim != 1 or not bias.shape == slope.shape == intercept.shape == sizes.shape:
            raise ValueError(f"{NUMBERS_FILE}: the layers' weights, biases and calibrations do not belong together")
        parts = np.split(weight, np.cumsum(as_sizes(sizes, len(weight)))[:-1])
        return LayerwiseProbe(
            tuple(LinearProbe(part, float(b)) for part, b in zip(parts, bias, strict=True)),
            tuple(Calibration(slope=float(a), intercept=float(b)) for a, b in zip(slope, intercept, strict=True)),
        )

    @property
    def num_values(self) -> int:
        """d: how many values a feature has."""
        return sum(probe.num_values for probe in self.probes)


def fit_layerwise(
    features: np.ndarray,
    labels: np.ndarray,
    held_out: Sequence[np.ndarray],
    sizes: Sequence[int],
    recipe: LinearRecipe,
    calibration: Samples | None = None,
) -> tuple[LayerwiseProbe, np.ndarray]:
    """Fit one linear probe per block of `sizes` values, and calibrate each on what it did not see.

    Args:
        features, labels, held_out: As for `cross_fit_linear`.
        calibration: Samples of other families and clients to calibrate on; None: the held-out rows.

    Returns:
        The probe, and the scores (n,) of held-out rows by fits that did not see them, NaN for the others.
    """
    probes, calibrations, columns = [], [], []
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        block = slice(end - size, end)
        probe, scores = cross_fit_linear(np.asarray(features[:, block]), labels, held_out, recipe)
        seen = ~np.isnan(scores)
        if calibration is None:
            calibrations.append(fit_calibration(scores[seen], labels[seen]))
        else:
            calibrations.append(fit_calibration(probe.score(calibration.features[:, block]), calibration.labels))
        probes.append(probe)
        columns.append(np.full(len(labels), np.nan))
        columns[-1][seen] = calibrations[-1].apply(scores[seen])
    return LayerwiseProbe(tuple(probes), tuple(calibrations)), np.max(columns, axis=0)
