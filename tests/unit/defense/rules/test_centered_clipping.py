"""defense/rules/centered_clipping.py: clipped steps around what the last round gave."""

import numpy as np
import pytest

from defense.rules.centered_clipping import aggregate
from tests.unit.defense.rules.builders import draw, flat, gathered, split


def naive(rows, masses, centre, radius, iterations) -> np.ndarray:
    for _ in range(iterations):
        distances = [np.linalg.norm(row - centre) for row in rows]
        tau = np.median(distances) if radius is None else radius
        steps = [m * (row - centre) * min(1, tau / d) for row, m, d in zip(rows, masses, distances, strict=True)]
        centre = centre + sum(steps) / sum(masses)
    return centre


def test_from_zero_long_updates_are_clipped_to_the_radius():
    # (3, 4) has norm 5 and comes in as (1.5, 2), (0, 1) as it is; masses 10 and 30.
    delta, _ = aggregate(gathered([[3, 4], [0, 1]], samples=[10, 30]), {}, radius=2.5)
    np.testing.assert_allclose(flat(delta), [0.375, 1.25], rtol=1e-14)


def test_the_centre_is_remembered():
    delta, memory = aggregate(gathered([[3, 4]]), {}, radius=2.5)
    assert flat(memory).tolist() == flat(delta).tolist() == [1.5, 2]
    # From there the same update is 2.5 away and no longer clipped; another iteration would have done as much.
    assert flat(aggregate(gathered([[3, 4]]), memory, radius=2.5)[0]).tolist() == [3, 4]
    assert flat(aggregate(gathered([[3, 4]]), {}, radius=2.5, iterations=2)[0]).tolist() == [3, 4]


def test_the_memory_given_is_not_changed():
    memory = split([1, 1])
    aggregate(gathered([[5, 5]]), memory, radius=1, iterations=3)
    assert flat(memory).tolist() == [1, 1]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("radius", [0.5, 2.0, None])
@pytest.mark.parametrize("iterations", [1, 3])
def test_a_naive_implementation_agrees(seed, radius, iterations):
    drawn, centre = draw(seed), draw(seed + 100, 1).rows[0]
    delta, _ = aggregate(drawn.gathered, split(centre), radius=radius, iterations=iterations)
    np.testing.assert_allclose(flat(delta), naive(drawn.rows, drawn.masses, centre, radius, iterations), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("radius", [0.25, 4.0])
def test_one_client_moves_the_centre_by_no_more_than_its_share_of_the_radius(radius):
    rows, huge = draw(0, 10).rows, draw(0, 10).rows
    huge[3] = -1e12
    moved = flat(aggregate(gathered(rows), {}, radius=radius)[0]) - flat(aggregate(gathered(huge), {}, radius=radius)[0])
    assert np.linalg.norm(moved) <= 2 * radius / 10 + 1e-9


def test_updates_inside_the_radius_are_simply_averaged():
    drawn = draw(2)
    expected = np.average(drawn.rows, axis=0, weights=drawn.masses)
    np.testing.assert_allclose(flat(aggregate(drawn.gathered, {}, radius=100)[0]), expected, rtol=1e-11, atol=1e-13)


def test_updates_at_the_centre_stay_there():
    assert flat(aggregate(gathered([[1, 2], [1, 2]]), split([1, 2]), radius=None)[0]).tolist() == [1, 2]
