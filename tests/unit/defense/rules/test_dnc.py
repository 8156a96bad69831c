"""defense/rules/dnc.py: outliers along the top singular direction of a random part of the coordinates."""

import numpy as np
import pytest
import torch

from defense.rules.dnc import outlier_scores
from tests.unit.defense.rules.builders import draw, result


def naive_scores(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(0)
    return (centred @ np.linalg.svd(centred)[2][0]) ** 2


def mean_of(drawn, kept) -> np.ndarray:
    return np.average(drawn.rows[kept], axis=0, weights=drawn.masses[kept])


def test_scores_are_squared_projections_on_the_top_direction():
    # The mean is (2, 0); the first axis has all of the variance, apart from +-0.1 across.
    rows = torch.tensor([[0, 0.1], [1, -0.1], [2, 0], [5, 0]], dtype=torch.float64)
    np.testing.assert_allclose(outlier_scores(rows).numpy(), [4, 1, 0, 9], atol=0.1)


def test_the_farthest_f_are_dropped_and_the_others_averaged_by_mass():
    rows = [[0, 0], [1, 0], [2, 0], [50, 0], [-1, 0]]
    np.testing.assert_allclose(result("dnc", rows, [1, 1, 2, 9, 4], f=1), [(0 + 1 + 4 - 4) / 8, 0], atol=1e-15)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("f", "filtering", "dropped"), [(0, 1.0, 0), (2, 1.0, 2), (3, 1.5, 4), (3, 0.5, 1)])
def test_a_naive_implementation_agrees(seed, f, filtering, dropped):
    drawn = draw(seed)
    kept = np.argsort(naive_scores(drawn.rows))[: len(drawn.rows) - dropped]
    np.testing.assert_allclose(drawn.result("dnc", f=f, filtering=filtering), mean_of(drawn, kept), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_only_the_drawn_coordinates_decide(seed):
    drawn = draw(seed, num_values=40)
    columns = np.sort(np.random.default_rng(seed).choice(40, size=8, replace=False, shuffle=False))
    kept = np.argsort(naive_scores(drawn.rows[:, columns]))[:-3]
    found = drawn.result("dnc", seed=seed, f=3, coordinates=8)
    np.testing.assert_allclose(found, mean_of(drawn, kept), rtol=1e-11, atol=1e-13)


def test_a_client_must_be_kept_by_every_iteration():
    drawn = draw(0, num_values=40)
    rng, kept = np.random.default_rng(4), set(range(11))
    for _ in range(3):
        columns = np.sort(rng.choice(40, size=5, replace=False, shuffle=False))
        kept &= set(np.argsort(naive_scores(drawn.rows[:, columns]))[:-2].tolist())
    assert 0 < len(kept) < 9
    found = drawn.result("dnc", seed=4, f=2, coordinates=5, iterations=3)
    np.testing.assert_allclose(found, mean_of(drawn, sorted(kept)), rtol=1e-11, atol=1e-13)


def test_when_no_client_is_kept_by_all_iterations_those_kept_most_often_count():
    # With one coordinate per draw and f=2 of 5 no client survives many draws.
    assert np.isfinite(draw(3, 5, num_values=30).result("dnc", f=2, coordinates=1, iterations=100)).all()
