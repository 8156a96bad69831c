"""defense/rules/dnc.py: outliers along the top singular direction of a random part of the coordinates."""

import numpy as np
import pytest
import torch

from defense.rules import dnc
from defense.rules.dnc import outlier_scores
from tests.unit.defense.rules.builders import draw, flat, gathered


def aggregate(state, seed=0, **settings) -> np.ndarray:
    return flat(dnc.aggregate(state, np.random.default_rng(seed), **settings))


def naive_scores(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(0)
    return (centred @ np.linalg.svd(centred)[2][0]) ** 2


def test_scores_are_squared_projections_on_the_top_direction():
    # The mean is (2, 0); the first axis has all of the variance, apart from +-0.1 across.
    rows = torch.tensor([[0, 0.1], [1, -0.1], [2, 0], [5, 0]], dtype=torch.float64)
    np.testing.assert_allclose(outlier_scores(rows).numpy(), [4, 1, 0, 9], atol=0.1)


def test_the_farthest_f_are_dropped_and_the_others_averaged_by_mass():
    rows = [[0, 0], [1, 0], [2, 0], [50, 0], [-1, 0]]
    found = aggregate(gathered(rows, samples=[1, 1, 2, 9, 4]), f=1)
    np.testing.assert_allclose(found, [(0 + 1 + 4 - 4) / 8, 0], atol=1e-15)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("f", "filtering", "dropped"), [(0, 1.0, 0), (2, 1.0, 2), (3, 1.5, 4), (3, 0.5, 1)])
def test_a_naive_implementation_agrees(seed, f, filtering, dropped):
    drawn = draw(seed)
    kept = np.argsort(naive_scores(drawn.rows))[: len(drawn.rows) - dropped]
    expected = np.average(drawn.rows[kept], axis=0, weights=drawn.masses[kept])
    np.testing.assert_allclose(aggregate(drawn.gathered, f=f, filtering=filtering), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("seed", range(5))
def test_only_the_drawn_coordinates_decide(seed):
    drawn = draw(seed, num_values=40)
    columns = np.sort(np.random.default_rng(seed).choice(40, size=8, replace=False, shuffle=False))
    kept = np.argsort(naive_scores(drawn.rows[:, columns]))[:-3]
    expected = np.average(drawn.rows[kept], axis=0, weights=drawn.masses[kept])
    np.testing.assert_allclose(aggregate(drawn.gathered, seed, f=3, coordinates=8), expected, rtol=1e-11, atol=1e-13)


def test_a_client_must_be_kept_by_every_iteration():
    drawn = draw(0, num_values=40)
    rng, kept = np.random.default_rng(4), set(range(11))
    for _ in range(3):
        columns = np.sort(rng.choice(40, size=5, replace=False, shuffle=False))
        kept &= set(np.argsort(naive_scores(drawn.rows[:, columns]))[:-2].tolist())
    assert 0 < len(kept) < 9
    expected = np.average(drawn.rows[sorted(kept)], axis=0, weights=drawn.masses[sorted(kept)])
    np.testing.assert_allclose(aggregate(drawn.gathered, 4, f=2, coordinates=5, iterations=3), expected, rtol=1e-11, atol=1e-13)


def test_when_no_one_is_kept_by_all_those_kept_most_often_count():
    # Along either axis one pair is the outlier; with one coordinate per draw and f=2 of 4 no one survives many draws.
    rows = draw(3, 5, num_values=30).rows
    assert np.isfinite(aggregate(gathered(rows), f=2, coordinates=1, iterations=200)).all()


def test_the_draw_follows_from_the_generator():
    drawn = draw(1, num_values=60)
    first, again, other = (aggregate(drawn.gathered, seed, f=4, coordinates=3) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
