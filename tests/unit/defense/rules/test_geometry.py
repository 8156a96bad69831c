"""defense/rules/geometry.py: distances and cosines that keep their digits, and choices with fixed ties."""

import numpy as np
import pytest
import torch

from defense.rules import round_updates
from defense.rules.geometry import UNIT, cosines, lowest, median, norms, ordering, squared_distances, whole_masses
from tests.unit.defense.rules.builders import collected, draw


def naive_distances(rows: np.ndarray) -> np.ndarray:
    return np.array([[((x - y) ** 2).sum() for y in rows] for x in rows])


def test_distances_norms_and_cosines_are_those_of_numpy():
    drawn = draw(0, num_clients=6)
    distances = squared_distances(drawn.collected).numpy()
    np.testing.assert_allclose(distances, naive_distances(drawn.rows), rtol=1e-12, atol=1e-13)
    lengths = np.linalg.norm(drawn.rows, axis=1)
    np.testing.assert_allclose(norms(drawn.collected).numpy(), lengths, rtol=1e-14)
    expected = drawn.rows @ drawn.rows.T / np.outer(lengths, lengths)
    np.testing.assert_allclose(cosines(drawn.collected).numpy(), expected, rtol=1e-12, atol=1e-14)


def test_a_common_part_costs_no_digits():
    # 100,000 values near 1 that differ by about 1e-4: the squared norms are 1e5, the squared distances 2e-3.
    rows = 1 + 1e-4 * np.random.default_rng(0).normal(size=(4, 100_000))
    rows = rows.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(squared_distances(collected(rows)).numpy(), naive_distances(rows), rtol=1e-10)


@pytest.mark.parametrize("place", [0, 3])
def test_a_huge_client_costs_the_others_no_digits(place):
    rows = draw(1, num_clients=4).rows
    rows[place] *= 1e15
    others = [i for i in range(4) if i != place]
    found = squared_distances(collected(rows)).numpy()[np.ix_(others, others)]
    np.testing.assert_allclose(found, naive_distances(rows)[np.ix_(others, others)], rtol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3])
def test_near_duplicates_far_from_the_others_keep_their_distances(monkeypatch, offset):
    # Three copies of one update that differ by a millionth, beside honest updates, all with a common offset. Over several blocks,
    # in one of which a huge client hides that is like the others everywhere else.
    monkeypatch.setattr(round_updates, "_BLOCK_VALUES", 9 * 64)
    monkeypatch.setattr(round_updates, "_LEAST_WIDTH", 1)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(9, 1000))
    rows[3:6] = 5 * rows[3] + 1e-6 * rng.normal(size=(3, 1000))
    rows[8, 100:110] = 1e12
    rows = (rows + offset).astype(np.float32).astype(np.float64)
    found = squared_distances(collected(rows)).numpy()
    np.testing.assert_array_equal(found, found.T)
    others = np.ix_(range(8), range(8))
    np.testing.assert_allclose(found[others], naive_distances(rows)[others], rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(found[8], naive_distances(rows)[8], rtol=1e-9)


def test_identical_updates_are_at_distance_0_exactly_and_zeros_are_orthogonal_to_all():
    assert squared_distances(collected([draw(2).rows[0]] * 5)).count_nonzero() == 0
    assert cosines(collected([[0, 0], [1, 0], [0, 0]])).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_of_equal_values_the_first_is_the_lowest():
    assert lowest(torch.tensor([3.0, 1.0, 2.0, 1.0]), 3) == [1, 2, 3]
    assert lowest(torch.tensor([1.0, 1.0, 0.0, 1.0]), 2) == [0, 2]
    assert ordering(torch.tensor([[2.0, 1.0], [1.0, 1.0], [1.0, 0.0]])).tolist() == [[1, 2], [2, 0], [0, 1]]


def test_median_is_the_middle_or_the_mean_of_the_middle_pair():
    assert median(torch.tensor([9.0, 1.0, 4.0])).item() == 4
    assert median(torch.tensor([9.0, 1.0, 4.0, 5.0])).item() == 4.5


def test_masses_are_whole_equal_for_equal_weights_and_never_0():
    assert whole_masses(torch.tensor([0.1, 0.1, 0.05], dtype=torch.float64)).tolist() == [UNIT, UNIT, UNIT // 2]
    assert whole_masses(torch.tensor([1.0, 1e-30], dtype=torch.float64)).tolist() == [UNIT, 1]
