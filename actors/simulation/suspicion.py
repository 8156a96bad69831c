"""What a probe says of a delta, as a function that an attacker can descend: a logit with a gradient.

Probes that are linear in unit blocks have one. Of trees nothing can be descended; their verdict is read without a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from probe.artefact import LoraProbe
from probe.calibration import logit
from probe.classifiers.layerwise import LayerwiseProbe
from probe.classifiers.linear import LinearProbe
from probe.features import feature_blocks

_SMALLEST_NORM = 1e-12


def suspicion(probe: LoraProbe, delta: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """logit P(malicious) of a delta with at least the tensors that the probe reads; 0-d float64, with a gradient where there is
    one.

    Example: a linear probe of weight (2, 0) and bias 1 gives (3, 4) the logit 2 x 0.6 + 1 = 2.2.
    """
    classifier = probe.classifier
    if isinstance(classifier, LayerwiseProbe):
        parts = zip(classifier.probes, classifier.calibrations, _units(probe, delta), strict=True)
        margin = torch.stack([own.slope * _margin(linear, unit_D) + own.intercept for linear, own, unit_D in parts]).max()
    elif isinstance(classifier, LinearProbe):
        margin = _margin(classifier, torch.cat(_units(probe, delta)))
    else:
        (score,) = probe.score([{name: delta[name].detach().float() for name in probe.meta.shapes}])
        return torch.tensor(logit(score), dtype=torch.float64)
    own = probe.meta.calibration
    return margin if own is None else own.slope * margin + own.intercept


def _units(probe: LoraProbe, delta: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """The feature's blocks, each of length 1."""
    found = []
    for block in feature_blocks(probe.meta.feature, probe.meta.layers):
        flat_D = torch.cat([delta[name].double().reshape(-1) for name in block.tensors])
        length = flat_D.norm()
        found.append(flat_D / length if float(length.detach()) >= _SMALLEST_NORM else flat_D)
    return found


def _margin(linear: LinearProbe, unit_D: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(linear.weight.astype(np.float64)) @ unit_D + linear.bias
