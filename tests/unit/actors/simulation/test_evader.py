"""An attacker's copy of a probe: the delta nearest to its own that the probe lets pass, by hand."""

import math

import pytest
import torch

from actors.simulation.evader import Evader
from probe.artefact import load_probe, probe_files
from tests.unit.actors.builders import A0, B0, SHAPES, filled, write_probe


def evader_of(folder, threshold: float | None = None, margin: float = 0.02, **changes) -> Evader:
    """Of a probe that gives the logistic of the sum of all values of its unit vectors."""
    write_probe(folder, 1.0, **changes)
    return Evader(probe_files(load_probe(folder)), threshold, margin)


def probability(delta) -> float:
    """What that probe says, with a unit vector for each tensor."""
    return 1 / (1 + math.exp(-sum(float((tensor / tensor.norm()).sum()) for tensor in delta.values())))


@pytest.mark.parametrize(("threshold", "margin", "limit"), [(None, 0.02, 0.78), (0.7, 0.1, 0.6), (0.8, 0.5, 0.4)])
def test_a_delta_comes_to_lie_the_margin_below_the_threshold_and_one_that_does_already_stays(tmp_path, threshold, margin, limit):
    evader = evader_of(tmp_path, threshold, margin)  # the probe's own threshold is 0.8; at least half of it is left
    assert not evader.needs_benign
    suspicious, harmless = ({B0: tensor.double()} for tensor in (torch.tensor([[1.0, 2], [3, 4], [1, 1]]), -torch.ones(3, 2)))
    assert probability(suspicious) > 0.88
    assert probability(evader.pass_off(suspicious, {})) == pytest.approx(limit, abs=1e-6)
    assert torch.allclose(evader.pass_off(harmless, {})[B0], harmless[B0])


def test_a_probe_of_several_blocks_is_evaded_by_blending_with_an_honest_delta(tmp_path):
    evader = evader_of(tmp_path, feature="per_layer", shapes=SHAPES, layers={A0: 0, B0: 1})
    assert evader.needs_benign
    suspicious = {name: torch.arange(2.0, 8).double().reshape(shape) for name, shape in SHAPES.items()}
    benign = {name: (-1) ** torch.arange(6).double().reshape(shape) for name, shape in SHAPES.items()}
    assert probability(suspicious) > 0.98 > 0.78 > probability(benign) == 0.5
    shown = evader.pass_off(suspicious, benign)
    shares = [((suspicious[name] - shown[name]) / (suspicious[name] - benign[name])).reshape(-1) for name in SHAPES]
    assert torch.allclose(torch.cat(shares), shares[0][0])  # a point between the two
    assert probability(shown) == pytest.approx(0.78, abs=1e-6)


def test_a_delta_that_a_probe_of_several_blocks_lets_pass_stays(tmp_path):
    evader = evader_of(tmp_path, feature="per_layer", shapes=SHAPES, layers={A0: 0, B0: 1})
    harmless = {name: tensor.double() for name, tensor in filled(-1.0).items()}
    assert all(torch.equal(tensor, harmless[name]) for name, tensor in evader.pass_off(harmless, filled(0.0)).items())
