"""defense/rules/flame.py: the majority's cluster, clipped to the median norm, with noise."""

import numpy as np
import pytest
import torch

from defense.rules.flame import majority
from tests.unit.defense.rules.builders import draw, result


def naive_majority(distances: np.ndarray) -> np.ndarray:
    """The first group of more than half of the clients that holds together as the distance bridged grows."""
    count = len(distances)
    for limit in np.unique(distances):
        groups = np.arange(count)
        for i in range(count):
            for j in range(count):
                if distances[i, j] <= limit:
                    groups[groups == groups[j]] = groups[i]
        for group in set(groups.tolist()):
            if (groups == group).sum() >= count // 2 + 1:
                return (groups == group).astype(float)
    raise AssertionError


def cosine_distances(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1)
    return 1 - rows @ rows.T / np.outer(lengths, lengths)


@pytest.mark.parametrize("num_clients", [3, 4, 10, 15])
@pytest.mark.parametrize("seed", range(4))
def test_the_cluster_is_the_tightest_majority(seed, num_clients):
    distances = cosine_distances(draw(seed, num_clients).rows)
    np.fill_diagonal(distances, 0)
    np.testing.assert_array_equal(majority(torch.from_numpy(distances)).numpy(), naive_majority(distances))


def test_clients_of_another_direction_are_dropped_and_the_length_does_not_matter():
    # Three point right, two up; norms 1, 2, 3, 1, 1: the median norm is 1, and all that count are clipped to it.
    found = result("flame", [[1, 0], [2, 0], [3, 0.001], [0, 1], [0, 1]], noise=0)
    np.testing.assert_allclose(found, [1, 0], atol=1e-3)


def test_the_others_are_clipped_to_the_median_norm_and_averaged_by_mass():
    # Norms 1, 2, 6 of one direction: clipped to 2. Masses 10, 10, 20: (1 x 10 + 2 x 10 + 2 x 20) / 40.
    found = result("flame", [[1, 0], [2, 0], [6, 0]], [10, 20, 20], [1, 0.5, 1], noise=0)
    np.testing.assert_allclose(found, [1.75, 0], rtol=1e-14)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_clients", [1, 2, 11])  # one and two clients are their own majority
def test_a_naive_implementation_agrees(seed, num_clients):
    drawn = draw(seed, num_clients)
    lengths = np.linalg.norm(drawn.rows, axis=1)
    clipped = drawn.rows * np.minimum(1, np.median(lengths) / lengths)[:, None]
    inside = naive_majority(cosine_distances(drawn.rows).round(14)) if num_clients > 2 else 1
    expected = np.average(clipped, axis=0, weights=drawn.masses * inside)
    np.testing.assert_allclose(drawn.result("flame", noise=0), expected, rtol=1e-11, atol=1e-13)


def test_noise_has_the_deviation_of_lambda_times_the_median_norm():
    with_noise = result("flame", [np.ones(40_000)] * 3, noise=0.001)
    # The norm of each is 200, so the deviation is 0.2; 40,000 draws measure it to 0.4 % or so.
    assert np.std(with_noise - 1) == pytest.approx(0.2, rel=0.02)
    assert np.mean(with_noise - 1) == pytest.approx(0, abs=0.005)


def test_updates_of_zeros_move_nothing():
    assert result("flame", [[0, 0]] * 4, noise=0.001).tolist() == [0, 0]
