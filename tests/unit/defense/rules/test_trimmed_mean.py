"""defense/rules/trimmed_mean.py: the share f/n of the mass is cut from either end of every coordinate."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
import torch

from defense.rules.geometry import whole_masses
from defense.rules.trimmed_mean import aggregate, weighted_trimmed_mean
from tests.unit.defense.rules.builders import draw, result


def naive(values, weights, f: int) -> float:
    """One coordinate in exact fractions: how much of each client's mass lies between the cuts."""
    pairs = sorted((float(v), Fraction(float(w))) for v, w in zip(values, weights, strict=True))
    total = sum(w for _, w in pairs)
    low, high = total * Fraction(f, len(pairs)), total * Fraction(len(pairs) - f, len(pairs))
    start, kept = Fraction(0), []
    for value, weight in pairs:
        kept.append((Fraction(value), max(Fraction(0), min(start + weight, high) - max(start, low))))
        start += weight
    return float(sum(v * k for v, k in kept) / sum(k for _, k in kept))


def test_f_values_are_dropped_at_either_end():
    # Of 1 2 3 90 the mean of 2 and 3; of -50 0 1 7 that of 0 and 1.
    assert result("trimmed_mean", [[90, 7], [2, -50], [1, 0], [3, 1]], f=1).tolist() == [2.5, 0.5]


def test_a_client_at_a_cut_keeps_the_part_inside():
    # Masses 1, 0.5, 0.5, 1: 3/4 is cut from either end. Left: 0.25 of 1, 0.5 of 2, 0.5 of 3, 0.25 of 90, of 1.5 together.
    found = result("trimmed_mean", [[1, 0], [2, 0], [3, 0], [90, 0]], weights=[1, 0.5, 0.5, 1], f=1)
    assert found[0] == pytest.approx((0.25 * 1 + 0.5 * 2 + 0.5 * 3 + 0.25 * 90) / 1.5, rel=1e-14)


def test_the_rest_is_weighted_by_w_and_not_by_samples():
    # Masses 1, 1, 0.5, 1, 1 of 4.5; 0.9 is cut from either end. Left of -9: 0.1, of 1: 1, 4: 0.5, 5: 1, 99: 0.1.
    rows = [[-9, 0], [1, 0], [4, 0], [5, 0], [99, 0]]
    found = result("trimmed_mean", rows, [1, 50, 900, 7, 3], [1, 1, 0.5, 1, 1], f=1)
    assert found[0] == pytest.approx((-0.9 + 1 + 2 + 5 + 9.9) / 2.7, rel=1e-8)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("num_clients", "f"), [(1, 0), (5, 0), (5, 2), (10, 3), (11, 5)])
def test_equal_weights_give_the_unweighted_trimmed_mean(seed, num_clients, f):
    drawn = draw(seed, num_clients, equal_weights=True)
    expected = scipy.stats.trim_mean(drawn.rows, f / num_clients + 1e-9, axis=0)
    np.testing.assert_allclose(drawn.result("trimmed_mean", f=f), expected, rtol=1e-14, atol=1e-15)
    by_mass = weighted_trimmed_mean(torch.from_numpy(drawn.rows), whole_masses(torch.from_numpy(drawn.weights)), f)
    np.testing.assert_allclose(by_mass.numpy(), expected, rtol=1e-14, atol=1e-15)


def test_no_sliver_of_a_trimmed_client_is_left():
    # Ten weights of 0.1 do not sum to 1 in floating point; the result must not hold 1e-17 of the outlier of 1e30.
    rows = torch.tensor([[float(i)] for i in range(9)] + [[1e30]], dtype=torch.float64)
    masses = whole_masses(torch.full((10,), 0.1, dtype=torch.float64))
    assert weighted_trimmed_mean(rows, masses, 3).tolist() == [4.5]  # 3, 4, 5, 6


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("f", [0, 2])
def test_a_naive_implementation_agrees(seed, f):
    drawn = draw(seed, 9)
    expected = [naive(column, drawn.weights, f) for column in drawn.rows.T]
    np.testing.assert_allclose(drawn.result("trimmed_mean", f=f), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("f", [-1, 2, 5])
def test_a_trim_that_leaves_no_client_is_an_error(f):
    with pytest.raises(ValueError, match=f"4 clients cannot be trimmed of f={f}"):
        aggregate(draw(0, 4).collected, f=f)
