"""A copy of a probe in an attacker's hands: from a delta to the one nearest to it that the probe lets pass."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from defense.attacks.probe_aware import blended_below, nearest_below
from defense.attacks.vectors import rows, tensors
from probe.artefact import LoraProbe, load_probe
from probe.classifiers.linear import LinearProbe
from probe.features import feature_blocks
from probe.logistic import logit

Deltas = Mapping[str, torch.Tensor]


class Evader:
    """Knows a probe as it was when it last judged."""

    def __init__(self, files: Mapping[str, bytes], threshold: float | None, margin: float) -> None:
        """`files`: the artefact; `threshold`: at which it flags, None: its own; `margin`: how far below to stay."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            self._probe: LoraProbe = load_probe(Path(folder))
        threshold = threshold or self._probe.meta.threshold
        self._limit = max(threshold - margin, threshold / 2)

    @property
    def names(self) -> Sequence[str]:
        """The tensors that the probe reads."""
        return sorted(self._probe.meta.shapes)

    @property
    def needs_benign(self) -> bool:
        """Whether `pass_off` blends: the probe is not linear in one unit vector."""
        blocks = feature_blocks(self._probe.meta.feature, self._probe.meta.layers)
        return not isinstance(self._probe.classifier, LinearProbe) or len(blocks) > 1

    def pass_off(self, delta: Deltas, benign: Deltas | None) -> dict[str, torch.Tensor]:
        """The tensors the probe reads, moved as little as brings their score below the threshold.

        Args:
            delta: Those tensors, float64.
            benign: The same of an honest client; None where the probe is linear in one unit vector.
        """
        if not self.needs_benign:
            weight_D = torch.from_numpy(self._probe.classifier.weight.astype(np.float64))
            return tensors(nearest_below(rows([delta])[0], weight_D, self._bound()), delta)
        delta_D, benign_D = rows([delta, benign])
        return tensors(blended_below(delta_D, benign_D, lambda row_D: self._score(tensors(row_D, delta)), self._limit), delta)

    def _bound(self) -> float:
        """weight . x at which the probe gives the limit."""
        calibration, target = self._probe.meta.calibration, logit(self._limit)
        if calibration:
            target = (target - calibration["intercept"]) / calibration["slope"]
        return target - self._probe.classifier.bias

    def _score(self, delta: Deltas) -> float:
        return self._probe.score([{name: tensor.float() for name, tensor in delta.items()}])[0]
