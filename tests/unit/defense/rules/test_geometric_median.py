"""defense/rules/geometric_median.py: smoothed Weiszfeld, run to its end."""

import numpy as np
import pytest
from scipy.optimize import minimize

from tests.unit.defense.rules.builders import draw, result

RULE = "geometric_median"


def cost(point: np.ndarray, rows: np.ndarray, masses: np.ndarray) -> float:
    return float((masses * np.linalg.norm(rows - point, axis=1)).sum())


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 0], [4, 0], [100, 0]], [4, 0]),  # on a line the median; a few steps from zero would end at 3.8 or so
        ([[-1, 0], [1, 0], [0, 2]], [0, 3**-0.5]),  # of a triangle the point from which all sides are seen at 120 degrees
        ([[0, 0], [2, 0], [0, 2], [2, 2]], [1, 1]),  # of a square the centre
    ],
)
def test_by_hand(rows, expected):
    np.testing.assert_allclose(result(RULE, rows), expected, atol=1e-6)


def test_more_than_half_of_the_mass_n_w_decides_alone():
    # Masses 4, 10 x 0.1, 2: the first has 4 of 7.
    found = result(RULE, [[3, 1], [0, 0], [9, 9]], [4, 10, 2], [1, 0.1, 1])
    np.testing.assert_allclose(found, [3, 1], atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_clients", [3, 8])
def test_a_general_minimiser_finds_nothing_better(seed, num_clients):
    drawn = draw(seed, num_clients, num_values=3)
    best = minimize(cost, drawn.rows.mean(0), (drawn.rows, drawn.masses), "Nelder-Mead", tol=1e-12, options={"maxiter": 10**4})
    smoothing = 1e-6  # so far from a client whose place is the best one may the point stay
    assert cost(drawn.result(RULE), drawn.rows, drawn.masses) <= best.fun + smoothing * drawn.masses.sum()


def test_a_client_that_is_far_away_pulls_no_harder_than_a_near_one():
    near, far = draw(1, 9).rows, draw(1, 9).rows
    near[0], far[0] = 1e3, 1e9
    np.testing.assert_allclose(result(RULE, near), result(RULE, far), atol=0.01)


def test_parameters_reach_the_iteration():
    rows = [[1, 0], [4, 0], [100, 0]]
    pulls = np.array([1 / 34, 1 / 31, 1 / 65])  # from the mean 35
    assert result(RULE, rows, max_iterations=1)[0] == pytest.approx((pulls * [1, 4, 100]).sum() / pulls.sum(), rel=1e-12)
    # With this smoothing all pulls are equal: the mean.
    assert result(RULE, rows, smoothing=1e6)[0] == pytest.approx(35, rel=1e-12)
