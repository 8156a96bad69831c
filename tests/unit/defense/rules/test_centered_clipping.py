"""defense/rules/centered_clipping.py: clipped steps around what the last round gave."""

import numpy as np
import pytest

from tests.unit.defense.rules.builders import aggregate, draw, flat, result, split, updates_of

RULE = "centered_clipping"


def naive(rows, masses, centre, radius, iterations) -> np.ndarray:
    for _ in range(iterations):
        distances = [np.linalg.norm(row - centre) for row in rows]
        tau = np.median(distances) if radius is None else radius
        steps = [m * (row - centre) * min(1, tau / d) for row, m, d in zip(rows, masses, distances, strict=True)]
        centre = centre + sum(steps) / sum(masses)
    return centre


def test_from_zero_long_updates_are_clipped_to_the_radius():
    # (3, 4) has norm 5 and comes in as (1.5, 2), (0, 1) as it is; masses 10 and 30.
    np.testing.assert_allclose(result(RULE, [[3, 4], [0, 1]], [10, 30], radius=2.5), [0.375, 1.25], rtol=1e-14)


def test_the_centre_is_remembered():
    first = aggregate(RULE, updates_of([[3, 4]]), radius=2.5)
    assert flat(first.memory).tolist() == flat(first.delta).tolist() == [1.5, 2]
    # From there the same update is 2.5 away and no longer clipped; another iteration would have done as much.
    assert result(RULE, [[3, 4]], memory=first.memory, radius=2.5).tolist() == [3, 4]
    assert result(RULE, [[3, 4]], radius=2.5, iterations=2).tolist() == [3, 4]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("radius", [0.5, 2.0, 100.0, None])
@pytest.mark.parametrize("iterations", [1, 3])
def test_a_naive_implementation_agrees(seed, radius, iterations):
    drawn, centre = draw(seed), draw(seed + 100, 1).rows[0]
    found = drawn.result(RULE, memory=split(centre), radius=radius, iterations=iterations)
    np.testing.assert_allclose(found, naive(drawn.rows, drawn.masses, centre, radius, iterations), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("radius", [0.25, 4.0])
def test_one_client_moves_the_centre_by_no_more_than_its_share_of_the_radius(radius):
    rows, huge = draw(0, 10).rows, draw(0, 10).rows
    huge[3] = -1e12
    moved = result(RULE, rows, radius=radius) - result(RULE, huge, radius=radius)
    assert np.linalg.norm(moved) <= 2 * radius / 10 + 1e-9


def test_updates_at_the_centre_stay_there():
    assert result(RULE, [[1, 2], [1, 2]], memory=split([1, 2])).tolist() == [1, 2]
