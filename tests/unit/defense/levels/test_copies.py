"""defense/levels/copies.py: how many updates go the same way, by hand."""

import math

import numpy as np
import pytest

from defense.levels.copies import copies, one_of_many
from tests.unit.defense.levels.builders import gathered


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [1, 1, 1]),  # nothing in common
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 9]], [1, 1, 2, 2]),  # length does not count
        # Cosines 1 (once), 0.6 (twice), so the median is 0.6: the pair of equal ones is a whole copy, the others are none.
        ([[1, 0], [1, 0], [0.6, 0.8]], [2, 2, 1]),
        # Cosines 0.8, 0.6 and 0: median 0.6, and 0.8 is the square of (0.8 - 0.6) / 0.4 of a copy.
        ([[1, 0], [0.8, 0.6], [0, 1]], [1.25, 1.25, 1]),
        ([[1, 0], [-1, 0], [0, 1]], [1, 1, 1]),  # turned is no copy; the median of -1, 0, 0
        ([[1, 0]] * 4, [1, 1, 1, 1]),  # all alike: none stands out
        ([[0, 0], [1, 0]], [1, 1]),
        ([[1, 0]], [1]),
    ],
)
def test_copies_by_hand(rows, expected):
    assert copies(gathered(rows)) == pytest.approx(expected, abs=1e-6)


def test_updates_that_differ_by_rounding_are_all_alike():
    rows = [[1 + i * 1e-7, 1] for i in range(5)]
    assert copies(gathered(rows)) == pytest.approx([1] * 5)


def test_in_a_large_round_each_is_compared_with_a_part_of_the_others():
    rng = np.random.default_rng(2)
    size = 8000
    common = rng.normal(size=size)
    rows = [common.tolist() if i % 3 == 0 else rng.normal(size=size).tolist() for i in range(900)]
    found = np.array(copies(gathered(rows)))  # by id: c0, c1, c10, c100, ...
    ids = sorted(f"c{i}" for i in range(900))
    is_copy = np.array([int(name[1:]) % 3 == 0 for name in ids])
    assert found[is_copy] == pytest.approx(300, rel=0.1)
    assert found[~is_copy].max() < 2


def test_who_has_as_many_copies_as_half_of_the_clients_loses_nothing():
    assert one_of_many([1, 1, 1.5, 3, 3]) == [1, 1, 1, 0.5, 0.5]
    assert one_of_many([2, 2, 1, 1]) == [0.5, 0.5, 1, 1]  # of two in the middle the lower
    assert one_of_many([4, 4, 4]) == [1, 1, 1]


@pytest.mark.parametrize("part", [0.2, 0.32, 0.48, 0.7, 1.0])
@pytest.mark.parametrize(("num_attackers", "most"), [(3, 1.90), (5, 2.60)])
def test_a_group_pulls_less_however_much_of_their_own_its_members_add(part, num_attackers, most):
    """M attackers of length 1 have the part k of their squared length in common, and their own parts sum to 0.

    So their cosines are c = k - (1 - k) / (M - 1), and in the common direction they pull M sqrt(k) / (1 + (M - 1) c^2).
    """
    rng = np.random.default_rng(1)
    size = 4000
    common, own = rng.normal(size=size), rng.normal(size=(num_attackers, size))
    own -= own.mean(0)
    common, own = common / np.linalg.norm(common), own / np.linalg.norm(own, axis=1, keepdims=True)
    rows = [*rng.normal(size=(10 - num_attackers, size)), *(math.sqrt(part) * common + math.sqrt(1 - part) * own)]
    weights = one_of_many(copies(gathered([row.tolist() for row in rows])))
    assert min(weights[: 10 - num_attackers]) > 0.99
    cosine = max(0, part - (1 - part) / (num_attackers - 1))
    pull = sum(weights[10 - num_attackers :]) * math.sqrt(part)
    assert pull == pytest.approx(num_attackers * math.sqrt(part) / (1 + (num_attackers - 1) * cosine**2), rel=0.03)
    assert pull < 1.02 * most
