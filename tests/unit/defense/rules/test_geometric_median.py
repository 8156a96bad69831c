"""defense/rules/geometric_median.py: smoothed Weiszfeld, run to its end."""

import numpy as np
import pytest
from scipy.optimize import minimize

from defense.rules import geometric_median
from tests.unit.defense.rules.builders import draw, flat, gathered


def cost(point: np.ndarray, rows: np.ndarray, masses: np.ndarray) -> float:
    return float((masses * np.linalg.norm(rows - point, axis=1)).sum())


def test_on_a_line_it_is_the_median():
    # A few steps from zero would end at 3.8 or so; the iteration goes on until it stands at 4.
    assert flat(geometric_median.aggregate(gathered([[1, 0], [4, 0], [100, 0]])))[0] == pytest.approx(4, abs=1e-6)


def test_of_a_triangle_it_is_the_point_that_sees_all_sides_at_120_degrees():
    # Corners (-1, 0), (1, 0), (0, 2): the point is (0, 1/sqrt(3)), inside.
    found = flat(geometric_median.aggregate(gathered([[-1, 0], [1, 0], [0, 2]])))
    np.testing.assert_allclose(found, [0, 1 / np.sqrt(3)], atol=1e-8)


def test_of_a_square_it_is_the_centre():
    found = flat(geometric_median.aggregate(gathered([[0, 0], [2, 0], [0, 2], [2, 2]])))
    np.testing.assert_allclose(found, [1, 1], atol=1e-12)


def test_more_than_half_of_the_mass_n_w_decides_alone():
    # Masses 4, 10 x 0.1, 2: the first has 4 of 7.
    found = flat(geometric_median.aggregate(gathered([[3, 1], [0, 0], [9, 9]], samples=[4, 10, 2], weights=[1, 0.1, 1])))
    np.testing.assert_allclose(found, [3, 1], atol=1e-5)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("num_clients", [3, 8])
def test_a_general_minimiser_finds_nothing_better(seed, num_clients):
    drawn = draw(seed, num_clients, num_values=3)
    found = flat(geometric_median.aggregate(drawn.gathered))
    best = minimize(cost, drawn.rows.mean(0), (drawn.rows, drawn.masses), "Nelder-Mead", tol=1e-12, options={"maxiter": 10**4})
    smoothing = 1e-6  # so far from a client whose place is the best one may the point stay
    assert cost(found, drawn.rows, drawn.masses) <= best.fun + smoothing * drawn.masses.sum()


def test_a_client_that_is_far_away_pulls_no_harder_than_a_near_one():
    rows = draw(1, 9).rows
    near, far = rows.copy(), rows.copy()
    near[0], far[0] = 1e3, 1e9
    found = [flat(geometric_median.aggregate(gathered(each))) for each in (near, far)]
    np.testing.assert_allclose(found[0], found[1], atol=0.01)


def test_parameters_reach_the_iteration():
    state = gathered([[1, 0], [4, 0], [100, 0]])
    one_step = flat(geometric_median.aggregate(state, max_iterations=1))
    # From the mean 35: shares in proportion to 1/34, 1/31, 1/65.
    pulls = np.array([1 / 34, 1 / 31, 1 / 65])
    assert one_step[0] == pytest.approx((pulls * [1, 4, 100]).sum() / pulls.sum(), rel=1e-12)
    rough = flat(geometric_median.aggregate(state, smoothing=1e6))  # so smooth that all pulls are equal: the mean
    assert rough[0] == pytest.approx(35, rel=1e-12)
