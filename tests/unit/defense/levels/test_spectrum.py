"""Level spectrum: which update is noise. Flatness by hand, against NumPy's singular values, and of the noise it is meant for."""

import math

import numpy as np
import pytest
import torch

from defense import levels
from defense.config import DefenseConfig
from defense.level_bounds import level_bounds, reference_values
from defense.levels.spectrum import flatness
from tests.unit.defense.levels.builders import measured, signalled


@pytest.mark.parametrize(("value", "weight"), [(0.0, 1.0), (0.8999, 1.0), (0.9, 0.0), (1.0, 0.0), (math.nan, 0.0)])
def test_an_update_as_flat_as_the_bound_weighs_nothing(value, weight):
    config = DefenseConfig(level="spectrum", spectrum={"max_flatness": 0.9})
    said = levels.weigh(config, {}, [signalled(spectrum=measured(flatness=value))], level_bounds(config, {}))
    assert (said.weights, said.trust) == ({"a": weight}, {})


@pytest.mark.parametrize(("benign", "state"), [((0.4, 0.5, 0.6), "in force"), ((0.7, 0.8, 0.9), "abstains")])
def test_it_separates_where_its_bound_is_below_the_flatness_of_noise(benign, state):
    # s = 0.1, and t_2 at 0.95 is 2.92: 0.337 above the mean.
    config = DefenseConfig(level="spectrum", false_positive_rate=0.05)
    known = reference_values(config, {"flatness": benign}, {"flatness": (0.1, 0.1)}, "round 3")
    assert known["flatness"].unsafe == (1.0,)
    bound = level_bounds(config, known)["spectrum"]
    assert bound.state == state
    if state == "in force":
        assert bound.limit == pytest.approx(
            (0.5 + 2.92 * 0.1 * (4 / 3) ** 0.5 + 1) / 2, abs=1e-4
        )  # half way from the limit to noise


def of(*matrices) -> float:
    return flatness({f"m{i}": torch.as_tensor(matrix, dtype=torch.float32) for i, matrix in enumerate(matrices)})


@pytest.mark.parametrize(
    ("matrices", "expected"),
    [
        ([[[1, 0], [0, 1]]], 5 / 3),  # the examples of the docstring
        ([[[0, 0], [3, 0]]], 5 / 6),
        ([[[1, 0], [0, 1]], [[0, 0], [0, 8**0.5]]], 1),  # by squared length: (2 x 5/3 + 8 x 5/6) / 10
        ([np.zeros((2, 2)), np.zeros(5)], 0),  # did not move
        ([np.zeros((2, 2)), np.ones(5), np.ones((1, 7)), np.ones((7, 1))], math.nan),  # only one direction is possible
        ([[[1, 0], [0, 1]], np.zeros((2, 2)), np.ones(5), np.ones((1, 7))], 5 / 3),
    ],
)
def test_flatness_by_hand(matrices, expected):
    assert of(*matrices) == pytest.approx(expected, nan_ok=True)


def test_it_is_the_participation_ratio_of_squared_singular_values_over_that_of_noise():
    matrix = np.random.default_rng(0).normal(size=(8, 96)) * np.arange(1, 97)
    squared = np.linalg.svd(matrix, compute_uv=False) ** 2
    expected = squared.sum() ** 2 / (squared**2).sum() / ((8 * 96 + 2) / (8 + 96 + 1))
    for same in (matrix, matrix.T, -1e-4 * matrix, matrix.reshape(8, 4, 4, 6)):  # the last one: a convolution
        assert of(same) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 50), (8, 96), (96, 8), (16, 16)])
def test_noise_of_any_shape_has_flatness_1(shape):
    rng = np.random.default_rng(1)
    assert of(*(0.01 * rng.standard_normal(shape) for _ in range(40))) == pytest.approx(1, abs=0.03)
