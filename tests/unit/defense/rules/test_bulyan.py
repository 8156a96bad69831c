"""defense/rules/bulyan.py: iterated Krum with removal, then the mean around the median."""

import numpy as np
import pytest
import torch

from defense.rules.bulyan import aggregate, mean_around_median, select
from tests.unit.defense.rules.builders import draw


def naive(rows: np.ndarray, masses: np.ndarray, f: int) -> list[float]:
    remaining, chosen = list(range(len(rows))), []
    while len(chosen) < len(rows) - 2 * f:
        best, best_score = -1, np.inf
        for i in remaining:
            squares = sorted(((rows[i] - rows[j]) ** 2).sum() for j in remaining if j != i)
            score = sum(squares[: max(1, len(remaining) - f - 2)])
            if score < best_score:
                best, best_score = i, score
        chosen.append(best)
        remaining.remove(best)
    result, chosen = [], sorted(chosen)
    for column in rows[chosen].T:
        closest = np.argsort(np.abs(column - np.median(column)), kind="stable")[: len(chosen) - 2 * f]
        result.append(np.average(column[closest], weights=masses[chosen][closest]))
    return result


def test_krum_is_run_again_on_those_that_remain():
    # Values 0 1 2 3 10 11 50, n=7, f=1: five are selected. First 4 neighbours count: 2 (4+1+1+64=70) before 1 (1+1+4+81=87)
    # and 3 (9+4+1+49=63), so 3 goes first. Then 3 neighbours of 0 1 2 10 11 50: 1 (1+1+81), 2 (4+1+64=69) -> 2.
    # Then 2 of 0 1 10 11 50: 10 (1+81=82), 1 (1+81=82), 0 (1+100) -> tie, 1 goes first by id.
    # Then 1 of 0 10 11 50: 10 and 11 (1) -> 10 by id. Then of 0 11 50: 0 (121) and 11 (121) -> 0 by id.
    values = torch.tensor([0.0, 1, 2, 3, 10, 11, 50]).double()
    assert select((values[:, None] - values).square(), 1) == [0, 1, 2, 3, 4]


def test_the_values_closest_to_the_median_are_averaged_by_mass():
    # Median 2; the three closest are 1 (1), 2 (0) and 3 (1), of masses 1, 2 and 5: (1 + 4 + 15) / 8.
    rows, masses = torch.tensor([[0.0], [1], [2], [3], [9]]).double(), torch.tensor([9.0, 1, 2, 5, 9]).double()
    assert mean_around_median(rows, masses, 3).tolist() == [2.5]


def test_of_equally_close_values_the_lower_client_counts():
    rows = torch.tensor([[4.0, 0], [2, 2], [0, 4]]).double()  # 4 and 0 are both 2 away from the median 2
    assert mean_around_median(rows, torch.ones(3).double(), 2).tolist() == [3, 1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("num_clients", "f"), [(3, 0), (7, 1), (8, 1), (11, 2), (15, 3)])
def test_a_naive_implementation_agrees(seed, num_clients, f):
    drawn = draw(seed, num_clients)
    np.testing.assert_allclose(drawn.result("bulyan", f=f), naive(drawn.rows, drawn.masses, f), rtol=1e-12, atol=1e-13)


def test_too_many_attackers_are_an_error():
    with pytest.raises(ValueError, match="Bulyan over 8 clients cannot bear f=2"):
        aggregate(draw(0, 8).collected, f=2)
