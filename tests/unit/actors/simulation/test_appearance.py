"""What levels without a model see of a delta, with gradients: by hand, and against the levels themselves."""

import pytest
import torch

from actors.simulation.appearance import Likeness, agreement, mean_direction, spread
from defense.levels.spectrum import flatness
from tests.unit.actors.builders import A0, B0, SHAPES, random_state


def matrix(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_a_spectrum_is_measured_as_the_level_does():
    assert float(spread({"a": matrix((1, 0), (0, 1))})) == pytest.approx(5 / 3)
    assert float(spread({"a": matrix((1, 0), (0, 0)), "b": torch.ones(3, dtype=torch.float64)})) == pytest.approx(5 / 6)
    assert float(spread({"a": matrix((0, 0), (0, 0))})) == 0.0
    for seed in range(3):
        state = {name: tensor.double() for name, tensor in random_state(seed).items()}
        assert float(spread(state)) == pytest.approx(flatness(state))


def test_a_flatter_spectrum_lies_along_the_gradient():
    one = matrix((1, 0), (0, 0.5)).requires_grad_()
    (gradient,) = torch.autograd.grad(spread({"a": one}), one)
    assert float(spread({"a": one.detach() + 0.1 * gradient})) > float(spread({"a": one.detach()}))


def test_agreement_is_the_cosine_to_the_others():
    deltas_MD = matrix((2, 0), (0, 1), (0, 3))
    assert agreement(deltas_MD, 0) == pytest.approx(0.0)
    assert agreement(deltas_MD, 1) == pytest.approx(1 / 2**0.5)  # the others' directions sum to (1, 1)
    assert agreement(deltas_MD[:1], 0) == 0.0
    assert mean_direction(deltas_MD).tolist() == pytest.approx([1 / 3, 2 / 3])


def test_likeness_is_the_cosine_to_what_malicious_trainings_have_in_common_layer_by_layer():
    def delta(a: float, b: float) -> dict[str, torch.Tensor]:
        """With one value other than 0 in each tensor."""
        made = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
        made[A0][0, 0], made[B0][0, 0] = a, b
        return made

    likeness = Likeness([delta(1, 0)], [delta(0, 1)], {A0: 0, B0: 1})  # away from A0's value, towards B0's
    flat_D = torch.cat([delta(3, 2)[name].reshape(-1) for name in sorted(SHAPES)])
    assert likeness.cosines(flat_D).tolist() == pytest.approx([-1.0, 1.0])
    assert likeness.cosines(-flat_D).tolist() == pytest.approx([1.0, -1.0])
