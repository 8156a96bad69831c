"""defense/preservation.py: steps and errors worked out by hand."""

import math

import numpy as np
import pytest
import torch

from defense.preservation import is_serious, standard_error, step


def test_the_step_is_along_the_gradient_and_makes_up_for_the_rise_to_first_order():
    gradient = {"b": torch.tensor([4.0]), "a": torch.tensor([[3.0]])}
    change = step(gradient, 5.0, most=10.0)
    assert {name: tensor.tolist() for name, tensor in change.items()} == {
        "b": [pytest.approx(-0.8)],
        "a": [[pytest.approx(-0.6)]],
    }
    assert sum(float((gradient[name] * change[name]).sum()) for name in gradient) == pytest.approx(-5.0)
    assert {tensor.dtype for tensor in change.values()} == {torch.float64}


def test_where_the_gradient_is_small_the_step_is_no_longer_than_allowed():
    change = step({"a": torch.tensor([3e-6, 4e-6])}, 5.0, most=2.0)
    assert change["a"].tolist() == pytest.approx([-1.2, -1.6])


def test_without_a_gradient_nothing_moves():
    assert step({"a": torch.zeros(2)}, 1.0, most=1.0)["a"].tolist() == [0.0, 0.0]


def test_on_a_quadratic_loss_steps_towards_its_minimum_halve_the_distance():
    # f(x) = x^2 / 2, gradient x, level 0: a step is x - (x^2 / 2) / x^2 x = x / 2.
    x = torch.tensor([8.0])
    for expected in (4.0, 2.0, 1.0):
        x = x + step({"x": x}, float(x**2 / 2), most=100.0)["x"]
        assert x.tolist() == [expected]


def test_the_standard_error_is_the_standard_error_of_the_loss_per_token():
    assert standard_error([1.0, 3.0], [1, 1]) == 1.0
    assert standard_error([2.0, 4.0, 6.0], [1, 2, 3]) == 0.0  # 2 nats a token in each row
    # Rows of one token each: the standard error of a mean.
    values = [0.5, 1.0, 2.5, 4.0]
    assert standard_error(values, [1] * 4) == pytest.approx(np.std(values, ddof=1) / math.sqrt(4))


def test_the_standard_error_is_how_far_the_loss_of_other_rows_scatters():
    rng = np.random.default_rng(0)
    tokens = rng.integers(4, 12, (2000, 20))
    losses = tokens * rng.gamma(4.0, 0.1, (2000, 20))
    means = losses.sum(axis=1) / tokens.sum(axis=1)
    found = [standard_error(row.tolist(), number.tolist()) for row, number in zip(losses, tokens, strict=True)]
    assert np.mean(found) == pytest.approx(np.std(means), rel=0.1)


def test_one_row_has_no_standard_error():
    with pytest.raises(ValueError, match="1 rows have no standard error"):
        standard_error([1.0], [1])


@pytest.mark.parametrize(
    ("rise", "error", "tokens", "serious"),
    [(0.1, 0.05, 10, False), (0.11, 0.05, 10, True), (0.11, 0.12, 10, False), (0.1, 0.05, 11, True), (-1, 0.05, 10, False)],
)
def test_a_loss_is_serious_that_makes_refusals_three_times_less_likely_and_is_no_chance_of_rows(rise, error, tokens, serious):
    assert is_serious(rise, error, tokens) is serious  # ln 3 = 1.0986


def test_a_loss_that_is_no_number_is_serious():
    assert is_serious(math.nan, 0.05, 10)
