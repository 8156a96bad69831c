"""Level live: all or nothing by the verdict on the submitted update, or the soft curve."""

import pytest

from defense import levels
from defense.config import DefenseConfig
from defense.level_bounds import level_bounds
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
