"""defense/rules/median.py: the coordinate-wise median by mass w."""

import numpy as np
import pytest
import torch

from defense.rules.geometry import whole_masses
from defense.rules.median import weighted_median
from tests.unit.defense.rules.builders import draw, result


def naive(values, weights) -> float:
    """The weighted median of one coordinate, by walking up the sorted values."""
    pairs, total, reached = sorted(zip(values, weights, strict=True)), sum(weights), 0.0
    for i, (value, weight) in enumerate(pairs):
        reached += weight
        if abs(2 * reached - total) < 1e-9 * total:
            return (value + pairs[i + 1][0]) / 2
        if 2 * reached > total:
            return value
    raise AssertionError


@pytest.mark.parametrize(
    ("rows", "samples", "weights", "expected"),
    [
        ([[9, -1], [1, 5], [2, 0]], None, None, [2, 0]),
        ([[9, 0], [1, 4], [2, 1], [4, 3]], None, None, [3, 2]),  # the mean of the middle pair
        # Half of the mass 1.5, 0.75, is reached at the heavy client's 5, first or last in order.
        ([[5, 5], [1, 9], [2, 7]], None, [1, 0.25, 0.25], [5, 5]),
        # 0.75 of 1.5 is reached exactly at the second value, so the next one counts too.
        ([[1, 1], [3, 3], [7, 7]], None, [0.5, 0.25, 0.75], [5, 5]),
        ([[1, 1], [2, 2], [9, 9]], [1, 1, 1000], None, [2, 2]),  # the number of samples does not count
    ],
)
def test_by_hand(rows, samples, weights, expected):
    assert result("median", rows, samples, weights).tolist() == expected


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_clients", [1, 2, 5, 8])
def test_equal_weights_give_the_unweighted_median_exactly(seed, num_clients):
    drawn = draw(seed, num_clients, equal_weights=True)
    expected = np.median(drawn.rows, axis=0)
    np.testing.assert_array_equal(drawn.result("median"), expected)
    # The way through masses gives the same.
    masses = whole_masses(torch.from_numpy(drawn.weights))
    np.testing.assert_array_equal(weighted_median(torch.from_numpy(drawn.rows), masses).numpy(), expected)


@pytest.mark.parametrize("seed", range(4))
def test_a_naive_implementation_agrees(seed):
    drawn = draw(seed, 9)
    np.testing.assert_array_equal(drawn.result("median"), [naive(column, drawn.weights) for column in drawn.rows.T])


def test_a_client_of_a_third_of_the_weight_counts_a_third_as_often():
    # The same as each client three times over, except for one of weight 1/3 that is there once.
    rows = draw(3, 5).rows
    repeated = np.vstack([np.repeat(rows[[0, 1, 3, 4]], 3, axis=0), rows[[2]]])
    np.testing.assert_array_equal(result("median", rows, weights=[0.9, 0.9, 0.3, 0.9, 0.9]), np.median(repeated, axis=0))
