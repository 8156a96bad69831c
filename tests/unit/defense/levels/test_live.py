"""Level live: all or nothing by the verdict on the submitted update, or the soft curve."""

import math
from dataclasses import replace

import pytest

from defense import levels
from defense.bounds import LOGIT, Bound
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


BOUND = Bound(state="in force", why="", edge=LOGIT.forward(0.9), scale=LOGIT, honest=LOGIT.forward(0.4))


@pytest.mark.parametrize(
    ("probability", "clear"),
    [(0.0, True), (0.4, True), (0.41, False), (0.89, False), (0.9, True), (1.0, True), (math.nan, False)],
)
def test_a_score_is_clear_up_to_the_references_limit_and_from_the_bound_on(probability, clear):
    assert is_clear(probability, BOUND) is clear


@pytest.mark.parametrize(("probability", "clear"), [(0.25, True), (0.26, False), (0.89, False), (0.9, True)])
def test_without_such_a_limit_honest_scores_reach_up_to_one_to_three(probability, clear):
    assert is_clear(probability, replace(BOUND, honest=None)) is clear


def test_nothing_is_clear_where_the_level_abstains_or_has_no_bound():
    assert not is_clear(0.0, replace(BOUND, state="abstains"))
    assert not is_clear(0.0, Bound(state="missing", why=""))
