"""A probe's verdict as a logit with a gradient: by hand, and against the probe itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.simulation.suspicion import suspicion
from actors.world.store import live_probe_folder, probe_folder, world_folder
from probe.artefact import LoraProbe, load_probe
from probe.calibration import Calibration, sigmoid
from probe.classifiers.linear import LinearProbe
from tests.unit.actors.builders import B0, META, SHAPES


def linear(*weight: float, bias: float = 0.0, **changes) -> LoraProbe:
    return LoraProbe(replace(META, **changes), LinearProbe(weight=np.array(weight, dtype=np.float32), bias=bias))


def delta_of(*values: float) -> dict[str, torch.Tensor]:
    return {B0: torch.tensor(values, dtype=torch.float64).reshape(SHAPES[B0]).requires_grad_()}


def test_a_linear_probe_reads_the_direction():
    delta = delta_of(3, 4, 0, 0, 0, 0)
    value = suspicion(linear(2, 0, 0, 0, 0, 0, bias=1.0), delta)
    assert value.item() == pytest.approx(2 * 0.6 + 1)
    (gradient,) = torch.autograd.grad(value, delta[B0])
    # d (2 x / |v|) = 2 (|v|^2 - x^2) / |v|^3 = 2 x 16 / 125 along x, and -2 x y / |v|^3 = -24 / 125 along y.
    assert gradient.reshape(-1)[:2].tolist() == pytest.approx([32 / 125, -24 / 125])


def test_the_calibration_of_a_probe_counts():
    probe = linear(2, 0, 0, 0, 0, 0, calibration=Calibration(slope=2.0, intercept=-1.0))
    assert suspicion(probe, delta_of(1, 0, 0, 0, 0, 0)).item() == pytest.approx(2 * 2 - 1)


def test_an_update_of_zeros_has_a_verdict():
    assert suspicion(linear(2, 0, 0, 0, 0, 0, bias=-0.5), delta_of(0, 0, 0, 0, 0, 0)).item() == -0.5


@pytest.mark.parametrize("folder", [probe_folder, live_probe_folder])
@pytest.mark.parametrize("seed", range(3))
def test_the_shipped_probes_say_the_same(folder, seed):
    probe, generator = load_probe(folder(world_folder(0))), torch.Generator().manual_seed(seed)
    delta = {name: torch.randn(shape, generator=generator) for name, shape in probe.meta.shapes.items()}
    assert sigmoid(suspicion(probe, delta).item()) == pytest.approx(probe.score([delta])[0], rel=1e-5)


class Flat:
    """A classifier of another kind."""

    num_values = 6

    def score(self, features: np.ndarray) -> np.ndarray:
        return np.full(len(features), 0.75)

    def files(self) -> dict[str, bytes]:
        return {}


def test_a_probe_of_another_kind_has_a_verdict_and_no_gradient():
    value = suspicion(LoraProbe(META, Flat()), delta_of(1, 0, 0, 0, 0, 0))
    assert float(value) == pytest.approx(np.log(3))
    assert not value.requires_grad
