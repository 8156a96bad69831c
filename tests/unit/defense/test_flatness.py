"""defense/flatness.py: against numbers worked out by hand, NumPy's singular values, and the noise that it is meant for."""

import math

import numpy as np
import pytest
import torch

from defense.flatness import flatness


def of(*matrices) -> float:
    return flatness({f"m{i}": torch.as_tensor(matrix, dtype=torch.float32) for i, matrix in enumerate(matrices)})


def test_the_examples_of_the_docstring():
    assert of([[1, 0], [0, 1]]) == pytest.approx(5 / 3)
    assert of([[0, 0], [3, 0]]) == pytest.approx(5 / 6)


def test_it_is_the_participation_ratio_of_squared_singular_values_over_that_of_noise():
    matrix = np.random.default_rng(0).normal(size=(8, 96)) * np.arange(1, 97)
    squared = np.linalg.svd(matrix, compute_uv=False) ** 2
    expected = squared.sum() ** 2 / (squared**2).sum() / ((8 * 96 + 2) / (8 + 96 + 1))
    assert of(matrix) == pytest.approx(expected, rel=1e-5)
    assert of(matrix.T) == pytest.approx(of(matrix))
    assert of(-1e-4 * matrix) == pytest.approx(of(matrix))


@pytest.mark.parametrize("shape", [(2, 50), (8, 96), (96, 8), (8, 288), (16, 16)])
def test_noise_of_any_shape_has_flatness_1(shape):
    rng = np.random.default_rng(1)
    assert of(*(0.01 * rng.standard_normal(shape) for _ in range(40))) == pytest.approx(1, abs=0.03)


def test_matrices_count_by_their_squared_length():
    # 5/3 with squared length 2, 5/6 with squared length 8: (10/3 + 40/6) / 10.
    assert of([[1, 0], [0, 1]], [[0, 0], [0, 8**0.5]]) == pytest.approx(1)


def test_what_has_one_direction_only_or_did_not_move_says_nothing():
    assert of(np.zeros((2, 2)), np.zeros(5)) == 0
    assert math.isnan(of(np.zeros((2, 2)), np.ones(5), np.ones((1, 7)), np.ones((7, 1))))
    assert of([[1, 0], [0, 1]], np.zeros((2, 2)), np.ones(5), np.ones((1, 7))) == pytest.approx(5 / 3)


def test_a_convolution_is_read_as_a_matrix():
    weight = np.random.default_rng(2).normal(size=(8, 4, 3, 3))
    assert of(weight) == pytest.approx(of(weight.reshape(8, 36)))
