"""defense/influence.py: the largest parts of a round are lowered, by hand and as a property."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from defense.influence import capped, divisor


@pytest.mark.parametrize(
    ("masses", "max_share", "expected"),
    [
        ([6, 3, 1], 0.5, [4, 3, 1]),  # 4 of 8
        ([10, 10, 1, 1], 0.4, [4, 4, 1, 1]),  # 4 of 10 each
        ([4, 3, 1], 0.5, [4, 3, 1]),  # holds as it is
        ([5, 2, 1], 0.25, [1, 1, 1]),  # three clients cannot each have a quarter or less: equal parts
        ([5, 2], 0.5, [2, 2]),
        ([7], 0.3, [7]),
        ([5, 2, 1], 1.0, [5, 2, 1]),
        ([], 0.3, []),
    ],
)
def test_by_hand(masses, max_share, expected):
    named = {str(i): float(mass) for i, mass in enumerate(masses)}
    assert list(capped(named, max_share).values()) == pytest.approx(expected)


@given(st.lists(st.floats(0.01, 1000), min_size=1, max_size=12), st.floats(0.05, 1))
def test_the_share_holds_and_nobody_gains(masses, max_share):
    named = {str(i): mass for i, mass in enumerate(masses)}
    found = capped(named, max_share)
    total = sum(found.values())
    bound = max(max_share, 1 / len(masses))
    assert all(mass <= bound * total * (1 + 1e-9) for mass in found.values())
    assert all(found[name] <= named[name] for name in named)
    assert max(found.values()) == pytest.approx(min(max(masses), max(found.values())))
    assert all(found[name] == named[name] for name in named if named[name] < max(found.values()) * (1 - 1e-9))


@pytest.mark.parametrize(
    ("normalisation", "max_share", "expected"),
    [("weights", 1.0, 9), ("samples", 1.0, 12), ("samples", 0.5, 12), ("samples", 0.25, 24)],
)
def test_what_a_step_is_divided_by(normalisation, max_share, expected):
    # 6 and 3 count of 12 samples; a share of 1/4 for the 6 asks for 24.
    assert divisor([6.0, 3.0], 12, normalisation, max_share) == expected
