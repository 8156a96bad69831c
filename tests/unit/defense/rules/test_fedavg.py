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
        total = total.add(WeightedUpdate(client_id="a", delta=delta, num_samples=num_samples, weight=weight))
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


def test_adding_a_client_leaves_the_sum_before_as_it_was_and_no_larger_than_one_adapter():
    first, second = updates_of([[2, 2], [10, 10]])
    before = WeightedSum().add(first)
    after = before.add(second)
    assert before.tensors["b"].tolist() == [20.0]
    assert {name: tensor.shape for name, tensor in after.tensors.items()} == {"a": (1, 1), "b": (1,)}
