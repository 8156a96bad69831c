"""defense/levels/agreement.py: cosines to the mean of the others, by hand and against a plain computation."""

import math

import numpy as np
import pytest

from defense.levels.agreement import agreements
from tests.unit.defense.levels.builders import gathered


@pytest.mark.parametrize(
    ("rows", "masses", "expected"),
    [
        ([[1, 0], [1, 0], [-1, 0]], [1, 1, 1], [0, 0, -1]),  # two alike and one turned
        # Length does not count. To c0 the others are (0, 1) and (1, 0): 45 degrees. To c1 they are (1, 0) twice.
        ([[1, 0], [0, 1], [100, 0]], [1, 1, 1], [math.sqrt(0.5), 0, math.sqrt(0.5)]),
        # Others of c0: 3 parts (0, 1), 4 parts (1, 0): cosine 4/5. A client's own mass does not count for itself.
        ([[1, 0], [0, 1], [1, 0]], [1, 3, 4], [0.8, 0, 1 / math.sqrt(10)]),
        # Where the update or the others point nowhere the cosine is 0.
        ([[0, 0], [1, 0], [1, 0]], [1, 1, 1], [0, 1, 1]),
        ([[1, 0], [1, 0]], [1, 0], [0, 1]),
        ([[1, 0]], [1], [0]),
    ],
)
def test_cosines_by_hand(rows, masses, expected):
    assert agreements(gathered(rows), masses) == pytest.approx(expected, abs=1e-6)


def test_against_numpy():
    rng = np.random.default_rng(3)
    rows, masses = rng.normal(size=(7, 40)).astype(np.float32), rng.uniform(size=7)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = []
    for i in range(7):
        others = sum(masses[j] * unit[j] for j in range(7) if j != i)
        expected.append(unit[i] @ others / np.linalg.norm(others))
    assert agreements(gathered(rows.tolist()), masses.tolist()) == pytest.approx(expected, abs=1e-6)
