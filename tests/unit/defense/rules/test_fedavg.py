"""defense/rules/fedavg.py: the mean weighted by samples x weight, in one sum."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defense.rules.fedavg import WeightedSum
from defense.rules.round_updates import WeightedUpdate
from tests.unit.defense.rules.builders import draw, result, updates_of


def test_the_mean_is_weighted_by_samples_times_weight():
    # Masses 10 x 0.5 = 5 and 15 x 1 = 15. First value (5 x 1 + 15 x 3) / 20 = 2.5, second (5 x 2 - 15 x 6) / 20 = -4.
    assert result("fedavg", [[1, 2], [3, -6]], [10, 15], [0.5, 1.0]).tolist() == [2.5, -4.0]


def test_a_client_alone_takes_a_whole_step_whatever_its_weight():
    assert result("fedavg", [[0.75, -2]], [12], [0.25]).tolist() == [0.75, -2.0]


@pytest.mark.parametrize("seed", range(4))
def test_numpy_agrees(seed):
    np.testing.assert_allclose(draw(seed).result("fedavg"), draw(seed).mean, rtol=1e-11, atol=1e-13)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(1, 500), st.floats(1e-3, 1.0)), min_size=1, max_size=8),
)
def test_identical_updates_return_themselves_to_the_bit_once_written_as_float32(values, masses):
    total, delta = WeightedSum(), {"a": torch.tensor(values, dtype=torch.float64)}
    for num_samples, weight in masses:
        total.add(WeightedUpdate(client_id="a", delta=delta, num_samples=num_samples, weight=weight))
    mean = total.finish({}, {}, np.random.default_rng(0)).delta["a"]
    torch.testing.assert_close(mean, delta["a"], rtol=1e-14, atol=0)
    assert torch.equal(mean.float(), delta["a"].float())


@pytest.mark.parametrize(
    ("num_samples", "weight", "message"),
    [
        (12, 0.0, r"mass 0\.0 \(num_samples 12 x weight 0\.0\)"),
        (0, 0.5, r"mass 0\.0 \(num_samples 0 x weight 0\.5\)"),
        (4, -0.5, r"mass -2\.0 \(num_samples 4 x weight -0\.5\)"),
        (4, math.nan, r"mass nan \(num_samples 4 x weight nan\)"),
    ],
)
def test_a_mass_that_is_not_positive_is_an_error_with_its_figures(num_samples, weight, message):
    with pytest.raises(ValueError, match=message):
        updates_of([[1, 2]], [num_samples], [weight])


def test_the_sum_is_one_adapter_of_float64_whatever_the_updates_are_made_of():
    # 10 x 0.1 of float32 a hundred times over: a sum in float32 would be off in its seventh digit.
    total, value = WeightedSum(), torch.tensor([0.1])
    for _ in range(100):
        total.add(WeightedUpdate(client_id="a", delta={"a": value}, num_samples=10, weight=1.0))
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in total.tensors.items()} == {"a": ((1,), torch.float64)}
    assert total.tensors["a"].item() == pytest.approx(1000 * float(value), rel=1e-14)
    assert value.tolist() == torch.tensor([0.1]).tolist()
