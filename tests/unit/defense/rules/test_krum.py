"""defense/rules/krum.py and multi_krum.py: squared distances to the n - f - 2 nearest others."""

import numpy as np
import pytest
import torch

from defense.rules.krum import scores
from tests.unit.defense.rules.builders import draw, result

LINE = [[0, 0], [1, 0], [2, 0], [4, 0], [9, 0]]


def naive_scores(rows: np.ndarray, f: int) -> list[float]:
    found = []
    for i, row in enumerate(rows):
        squares = sorted(((row - other) ** 2).sum() for j, other in enumerate(rows) if j != i)
        found.append(sum(squares[: len(rows) - f - 2]))
    return found


def test_scores_are_sums_of_squares_to_the_nearest_others():
    # n=5, f=1: two neighbours. 0: 1 + 4; 1: 1 + 1; 2: 1 + 4; 4: 4 + 9; 9: 25 + 49.
    values = torch.tensor(LINE, dtype=torch.float64)
    assert scores(torch.cdist(values, values).square().round(), 1).tolist() == [5, 2, 5, 13, 74]


def test_krum_takes_the_lowest_score_as_it_is():
    assert result("krum", LINE, [1, 7, 1, 1, 1], [1, 0.3, 1, 1, 1], f=1).tolist() == [1, 0]


def test_multi_krum_averages_the_n_minus_f_lowest_by_samples_times_weight():
    # The client at 9 is dropped. Masses 10, 10, 5, 20: (0 + 10 + 10 + 80) / 45.
    found = result("multi_krum", LINE, [10, 10, 10, 20, 99], [1, 1, 0.5, 1, 1], f=1)
    assert found[0] == pytest.approx(100 / 45, rel=1e-14)


def test_of_equal_scores_the_lowest_client_id_wins():
    square = [[0, 0], [0, 1], [1, 0], [1, 1]]  # every corner has the same distances
    assert result("krum", square, f=0).tolist() == [0, 0]
    assert result("krum", square[::-1], f=0).tolist() == [1, 1]


def test_squared_and_plain_distances_choose_differently():
    # n=6, f=1: three neighbours. (3, 5) has squares 5 + 5 + 10 = 20, (5, 4) has 1 + 5 + 16 = 22. Not squared it would be
    # 2.24 + 2.24 + 3.16 = 7.63 against 1 + 2.24 + 4 = 7.24. All others have more of either.
    assert result("krum", [[3, 5], [1, 4], [6, 4], [1, 0], [5, 4], [3, 0]], f=1).tolist() == [3, 5]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("num_clients", "f"), [(3, 0), (5, 1), (15, 3), (11, 4)])
def test_a_naive_implementation_agrees(seed, num_clients, f):
    drawn = draw(seed, num_clients)
    expected = naive_scores(drawn.rows, f)
    np.testing.assert_array_equal(drawn.result("krum", f=f), drawn.rows[np.argmin(expected)])
    chosen = np.argsort(expected)[: num_clients - f]
    mean = np.average(drawn.rows[chosen], axis=0, weights=drawn.masses[chosen])
    np.testing.assert_allclose(drawn.result("multi_krum", f=f), mean, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("num_clients", [1, 2])
def test_one_and_two_clients_have_no_neighbours_to_speak_of(num_clients):
    drawn = draw(0, num_clients)
    np.testing.assert_array_equal(drawn.result("krum", f=0), drawn.rows[0])
    np.testing.assert_allclose(drawn.result("multi_krum", f=0), drawn.mean, rtol=1e-13)
