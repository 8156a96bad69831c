"""A copy of a probe in an attacker's hands: from a delta to the one nearest to it that the probe lets pass."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from defense.attacks.probe_aware import blended_below, nearest_below
from defense.tensors import from_row, rows
from probe.artefact import LoraProbe, load_probe
from probe.calibration import logit
from probe.classifiers.linear import LinearProbe
from probe.features import feature_blocks

Deltas = Mapping[str, torch.Tensor]


def copied(files: Mapping[str, bytes]) -> LoraProbe:
    """The probe of an artefact's files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return load_probe(Path(folder))


class Evader:
    """Knows a probe as it was when it last judged."""

    def __init__(self, files: Mapping[str, bytes], threshold: float | None, margin: float) -> None:
        """`files`: the artefact; `threshold`: at which it flags, None: its own; `margin`: how far below to stay."""
        self._probe = copied(files)
        meta, classifier = self._probe.meta, self._probe.classifier
        threshold = threshold or meta.threshold
        self._limit = max(threshold - margin, threshold / 2)
        one_block = len(feature_blocks(meta.feature, meta.layers)) == 1
        self._linear = classifier if isinstance(classifier, LinearProbe) and one_block else None

    @property
    def needs_benign(self) -> bool:
        """Whether `pass_off` blends: the probe is not linear in one unit vector."""
        return self._linear is None

    def pass_off(self, delta: Deltas, benign: Deltas) -> dict[str, torch.Tensor]:
        """The tensors that the probe reads, moved as little as brings their score below the threshold.

        Args:
            delta: These tensors and any others, float64.
            benign: The same of an honest client; not read where the probe needs none.
        """
        read = {name: delta[name] for name in self._probe.meta.shapes}
        if self._linear is not None:
            weight_D = torch.from_numpy(self._linear.weight.astype(np.float64))
            return from_row(nearest_below(rows([read])[0], weight_D, self._bound(self._linear)), read)
        delta_D, benign_D = rows([read, {name: benign[name] for name in read}])
        return from_row(blended_below(delta_D, benign_D, lambda row_D: self._score(from_row(row_D, read)), self._limit), read)

    def _bound(self, linear: LinearProbe) -> float:
        """weight . x at which the probe gives the limit."""
        calibration, target = self._probe.meta.calibration, logit(self._limit)
        if calibration:
            target = (target - calibration.intercept) / calibration.slope
        return target - linear.bias

    def _score(self, delta: Deltas) -> float:
        return self._probe.score([{name: tensor.float() for name, tensor in delta.items()}])[0]
