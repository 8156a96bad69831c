"""One linear probe per block (layer) of the feature; the verdict is the calibrated maximum (docs/method.md section 8).

Each layer's logit is calibrated before the maximum is taken, so that a layer whose probabilities are always high does not
decide alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from probe.calibration import Calibration, fit_calibration
from probe.classifiers.base import ClassifierSpec, TrainingData
from probe.classifiers.linear import LinearProbe, LinearSettings, cross_fit_linear
from probe.classifiers.numbers import NUMBERS_FILE, as_sizes, read_numbers, write_numbers


@dataclass(frozen=True, slots=True, eq=False)
class LayerwiseProbe:
    """A `Classifier`: P(malicious) = max over blocks of the block's calibrated probability."""

    probes: tuple[LinearProbe, ...]
    """One per block, in the feature's order of blocks."""
    calibrations: tuple[Calibration, ...]

    def score(self, features: np.ndarray) -> np.ndarray:
        ends = np.cumsum([probe.num_values for probe in self.probes])
        blocks = [features[:, end - probe.num_values : end] for probe, end in zip(self.probes, ends, strict=True)]
        parts = zip(self.probes, self.calibrations, blocks, strict=True)
        return np.max([calibration.apply(probe.score(block)) for probe, calibration, block in parts], axis=0)

    def files(self) -> dict[str, bytes]:
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
        return sum(probe.num_values for probe in self.probes)


def fit_layerwise(data: TrainingData, settings: LinearSettings) -> tuple[LayerwiseProbe, np.ndarray]:
    """Fit one linear probe per block and calibrate each on rows that it did not see; see `ClassifierSpec.fit`."""
    features, labels = data.samples.features, data.samples.labels
    probes, calibrations, columns = [], [], []
    for end, size in zip(np.cumsum(data.sizes), data.sizes, strict=True):
        block = slice(end - size, end)
        probe, scores = cross_fit_linear(np.asarray(features[:, block]), labels, data.held_out, settings)
        seen = ~np.isnan(scores)
        if data.calibration is None:
            calibrations.append(fit_calibration(scores[seen], labels[seen]))
        else:
            calibrations.append(fit_calibration(probe.score(data.calibration.features[:, block]), data.calibration.labels))
        scores[seen] = calibrations[-1].apply(scores[seen])
        probes.append(probe)
        columns.append(scores)
    return LayerwiseProbe(tuple(probes), tuple(calibrations)), np.max(columns, axis=0)


SPEC = ClassifierSpec(name="layerwise", choice="linear", features=("per_layer",), fit=fit_layerwise, load=LayerwiseProbe.load)
