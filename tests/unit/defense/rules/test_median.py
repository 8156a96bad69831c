"""defense/rules/median.py: the coordinate-wise median by mass w."""

import numpy as np
import pytest
import torch

from defense.rules import median
from defense.rules.masses import UNIT, whole_masses
from defense.rules.median import weighted_median
from tests.unit.defense.rules.builders import draw, flat, gathered


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


def test_the_median_of_each_coordinate():
    # 1 2 9 -> 2 and -1 0 5 -> 0.
    assert flat(median.aggregate(gathered([[9, -1], [1, 5], [2, 0]]))).tolist() == [2, 0]


def test_of_an_even_number_the_mean_of_the_middle_pair():
    assert flat(median.aggregate(gathered([[9, 0], [1, 4], [2, 1], [4, 3]]))).tolist() == [3, 2]


def test_a_heavy_client_is_its_own_majority():
    # Mass 1 of 1 + 0.25 + 0.25: half of it, 0.75, is reached at the heavy client's 5, first or last in order.
    assert flat(median.aggregate(gathered([[5, 5], [1, 9], [2, 7]], weights=[1, 0.25, 0.25]))).tolist() == [5, 5]


def test_where_half_of_the_mass_ends_with_a_client_the_next_one_counts_too():
    # Masses 0.5, 0.25, 0.75: 0.75 of 1.5 is reached exactly at the second value.
    assert flat(median.aggregate(gathered([[1, 1], [3, 3], [7, 7]], weights=[0.5, 0.25, 0.75]))).tolist() == [5, 5]


def test_the_number_of_samples_does_not_count():
    assert flat(median.aggregate(gathered([[1, 1], [2, 2], [9, 9]], samples=[1, 1, 1000]))).tolist() == [2, 2]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("num_clients", [1, 2, 5, 8])
def test_equal_weights_give_the_unweighted_median_exactly(seed, num_clients):
    drawn = draw(seed, num_clients, equal_weights=True)
    expected = np.median(drawn.rows, axis=0)
    np.testing.assert_array_equal(flat(median.aggregate(drawn.gathered)), expected)
    # The way through masses gives the same.
    masses = whole_masses(torch.from_numpy(drawn.weights))
    np.testing.assert_array_equal(weighted_median(torch.from_numpy(drawn.rows), masses).numpy(), expected)


@pytest.mark.parametrize("seed", range(10))
def test_a_naive_implementation_agrees(seed):
    drawn = draw(seed, 9)
    expected = [naive(column, drawn.weights) for column in drawn.rows.T]
    np.testing.assert_array_equal(flat(median.aggregate(drawn.gathered)), expected)


def test_a_client_of_a_third_of_the_weight_counts_as_often():
    # The same as each client three times over, except for one of weight 1/3 that is there once.
    rows = draw(3, 5).rows
    once = flat(median.aggregate(gathered(rows, weights=[0.9, 0.9, 0.3, 0.9, 0.9])))
    repeated = np.vstack([np.repeat(rows[[0, 1, 3, 4]], 3, axis=0), rows[[2]]])
    np.testing.assert_array_equal(once, np.median(repeated, axis=0))


def test_masses_are_whole_equal_for_equal_weights_and_never_0():
    assert whole_masses(torch.tensor([0.1, 0.1, 0.05], dtype=torch.float64)).tolist() == [UNIT, UNIT, UNIT // 2]
    assert whole_masses(torch.tensor([1.0, 1e-30], dtype=torch.float64)).tolist() == [UNIT, 1]
