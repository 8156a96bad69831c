"""Level live: all or nothing by the verdict on the submitted update, or the soft curve."""

import math

import pytest

from defense import levels
from defense.config import DefenseConfig
from defense.level_bounds import level_bounds
from defense.levels.live import is_clear
from tests.unit.defense.levels.builders import saw, signalled


def weight(probability: float, threshold: float = 0.8, **settings) -> float:
    config = DefenseConfig(level="live", live=settings)
    said = levels.weigh(
        config, {"kept": 1}, [signalled(update=saw(last=probability))], level_bounds(config, {}, threshold=threshold)
    )
    assert said.trust == {"kept": 1}
    return said.weights["a"]


@pytest.mark.parametrize(
    ("probability", "threshold", "expected"),
    [(0.0, 0.8, 1), (0.7999, 0.8, 1), (0.8, 0.8, 0), (1.0, 0.8, 0), (float("nan"), 0.8, 0), (0.5, 0.4, 0), (0.5, 0.6, 1)],
)
def test_at_the_threshold_a_client_weighs_nothing(probability, threshold, expected):
    assert weight(probability, threshold) == expected


def test_softly_a_client_weighs_by_the_client_levels_curve():
    # At the threshold the curve of the lower side ends at half of logistic(10 (1 - 0.5)) = 0.99330714907571527.
    assert weight(0.8, soft=True) == pytest.approx(1 - 0.5 * 0.99330714907571527)
    # Half way up the upper side: 1/2 + 1/2 x 1/2.
    assert weight(0.9, soft=True) == pytest.approx(0.25)
    assert weight(0.45, threshold=0.9, soft=True) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("probability", "limit", "clear"),
    [
        (0.0, 0.5, True),
        (0.25, 0.5, True),  # odds 1/3
        (0.26, 0.5, False),
        (0.74, 0.5, False),
        (0.7501, 0.5, True),  # odds above 3
        (0.76, 0.1, True),  # a bound below 1/2 counts as 1/2
        (0.8, 0.6, False),  # odds 4, and 3 x 1.5 are asked
        (0.82, 0.6, True),
        (1.0, 1.0, True),
        (0.9, 1.0, False),
        (math.nan, 0.5, False),
    ],
)
def test_a_score_is_clear_from_three_to_one_on(probability, limit, clear):
    assert is_clear(probability, limit) is clear
