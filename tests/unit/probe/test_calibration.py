"""probe/calibration.py: Platt scaling against scikit-learn's logistic regression, and the threshold against its promise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn.linear_model import LogisticRegression

from probe.calibration import Calibration, choose_threshold, fit_calibration

SCORES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.5, 0.9, np.nextafter(1, 0)]))
"""With ties, also at the highest score that a threshold can still not be above."""


def overlapping(number: int, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose logits are normal, higher for malicious samples, and run too high; every second sample is malicious."""
    labels = np.arange(number) % 2
    logits = scale * (np.random.default_rng(seed).normal(size=number) + 1.5 * labels + 0.5)
    return special.expit(logits), labels


def by_regression(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Slope and intercept by scikit-learn: a target t is a malicious sample of weight t and a benign one of weight 1 - t."""
    malicious, benign = (labels == 1).sum(), (labels == 0).sum()
    target = np.where(labels == 1, (malicious + 1) / (malicious + 2), 1 / (benign + 2))
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
    x = special.logit(np.clip(scores, 1e-12, 1 - 1e-12))
    model.fit(np.tile(x, 2)[:, None], np.repeat([1, 0], len(x)), np.concatenate([target, 1 - target]))
    return model.coef_[0, 0], model.intercept_[0]


# Platt scaling


@pytest.mark.parametrize("number", [6, 40, 1000])
@pytest.mark.parametrize("scale", [0.5, 3.0, 12.0])
def test_the_fit_agrees_with_scikit_learns_logistic_regression(number, scale):
    scores, labels = overlapping(number, scale)
    fitted = fit_calibration(scores, labels)
    assert (fitted.slope, fitted.intercept) == pytest.approx(by_regression(scores, labels), rel=1e-3, abs=1e-4)


def test_applying_is_the_sigmoid_of_the_scaled_logit():
    # logit(0.75) = ln 3 and logit(0.25) = -ln 3; with slope 2 the odds are 9 : 1 and 1 : 9, times 3 by the intercept.
    scores = Calibration(slope=2.0, intercept=math.log(3)).apply(np.array([0.75, 0.25, 0.5]))
    assert scores.dtype == np.float64
    assert scores.tolist() == pytest.approx([27 / 28, 3 / 12, 3 / 4], abs=1e-15)


def test_slope_1_and_intercept_0_change_nothing():
    scores = np.linspace(0.01, 0.99, 50)
    np.testing.assert_allclose(Calibration(slope=1.0, intercept=0.0).apply(scores), scores, rtol=1e-14)


def test_no_scores_give_no_scores():
    assert Calibration(slope=1.0, intercept=0.0).apply(np.zeros(0)).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(1e-3, 50), st.floats(-30, 30))
def test_applying_never_turns_a_ranking_round(scores, slope, intercept):
    applied = Calibration(slope=slope, intercept=intercept).apply(np.sort(scores))
    assert (np.diff(applied) >= 0).all()
    assert ((applied >= 0) & (applied <= 1)).all()


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.9), (0.0, 1.0), (0.499, 0.501)])
def test_separable_scores_become_platts_smoothed_targets(low, high):
    # Two groups and two parameters, so each group gets its mean target: (10 + 1) / (10 + 2) and 1 / (6 + 2).
    scores, labels = np.repeat([low, high], [6, 10]), np.repeat([0, 1], [6, 10])
    fitted = fit_calibration(scores, labels)
    assert math.isfinite(fitted.slope)
    assert fitted.slope > 0
    assert fitted.apply(np.array([low, high])).tolist() == pytest.approx([1 / 8, 11 / 12], abs=1e-4)


@pytest.mark.parametrize("score", [0.0, 0.2, 0.5, 1.0])
def test_a_constant_score_becomes_the_mean_target(score):
    # 20 benign samples of target 1/22 and 10 malicious ones of 11/12: (20/22 + 110/12) / 30.
    fitted = fit_calibration(np.full(30, score), np.repeat([0, 1], [20, 10]))
    assert fitted.slope > 0
    assert fitted.apply(np.array([score]))[0] == pytest.approx((20 / 22 + 110 / 12) / 30, abs=1e-5)


def test_scores_the_wrong_way_round_are_flattened_and_not_turned():
    scores, labels = np.repeat([0.9, 0.1], 10), np.repeat([0, 1], 10)
    low, high = fit_calibration(scores, labels).apply(np.array([0.1, 0.9]))
    assert low < high < low + 0.01


def test_calibration_lowers_the_log_loss_of_scores_that_run_high():
    scores, labels = overlapping(2000, 3.0)
    fresh, fresh_labels = overlapping(2000, 3.0, seed=1)
    calibrated = fit_calibration(scores, labels).apply(fresh)

    def loss(p):
        return -np.log(np.where(fresh_labels == 1, p, 1 - p)).mean()

    assert loss(calibrated) < 0.8 * loss(fresh)
    assert calibrated.mean() == pytest.approx(0.5, abs=0.03)
    assert fresh.mean() > 0.6


# Threshold


def test_the_threshold_lies_half_way_between_the_classes():
    scores, labels = np.array([0.1, 0.2, 0.6, 0.9]), np.array([0, 0, 1, 1])
    assert choose_threshold(scores, labels, 0.01) == pytest.approx(0.4)


def test_the_target_says_how_many_benign_samples_may_be_flagged():
    # Benign 0.1 ... 1.0 in ten steps. At most 2 of 10: 0.8 must stay below, 0.9 is flagged, half way is 0.85.
    scores = np.append(np.arange(1, 11) / 10, 0.95)
    labels = np.array([0] * 10 + [1])
    assert choose_threshold(scores, labels, 0.2) == pytest.approx(0.85)
    assert choose_threshold(scores, labels, 0.29) == pytest.approx(0.85)
    # At most 1 of 10: 0.9 stays below, and the next score is the malicious 0.95.
    assert choose_threshold(scores, labels, 0.1) == pytest.approx(0.925)


def test_the_next_score_above_may_be_benign_or_1():
    labels = np.array([0, 0, 0, 1])
    assert choose_threshold(np.array([0.1, 0.2, 0.4, 0.9]), labels, 0.34) == pytest.approx(0.3)
    assert choose_threshold(np.array([0.1, 0.2, 0.4, 0.3]), labels, 0.01) == pytest.approx(0.7)


def test_benign_ties_are_flagged_together_or_not_at_all():
    # 3 of 10 may be flagged, but 5 of them share the score 0.8: none is.
    scores, labels = np.array([0.2] * 5 + [0.8] * 5 + [0.9]), np.array([0] * 10 + [1])
    assert choose_threshold(scores, labels, 0.3) == pytest.approx(0.85)
    assert choose_threshold(scores, labels, 0.5) == pytest.approx(0.5)


def test_one_score_for_all_flags_nothing():
    threshold = choose_threshold(np.full(20, 0.3), np.arange(20) % 2, 0.1)
    assert threshold == pytest.approx(0.65)


def test_neighbouring_floats_are_told_apart():
    below, above = 0.3, np.nextafter(0.3, 1)
    for low, high in ((below, above), (above, np.nextafter(above, 1))):
        assert choose_threshold(np.array([low, high]), np.array([0, 1]), 0.01) == high


@pytest.mark.parametrize("score", [1.0, np.nextafter(1, 0)])
def test_benign_scores_of_1_leave_no_threshold(score):
    with pytest.raises(ValueError, match=r"3 of 4 benign calibration samples score 1, .* target_fpr=0\.5"):
        choose_threshold(np.array([0.1, score, score, score, 1.0]), np.array([0, 0, 0, 0, 1]), 0.5)


def test_benign_scores_of_1_that_the_target_allows_are_let_go():
    assert choose_threshold(np.array([0.1, 1.0, 0.5]), np.array([0, 0, 1]), 0.5) == pytest.approx(0.3)


@settings(max_examples=200, deadline=None)
@given(st.lists(SCORES, min_size=1, max_size=30), st.lists(SCORES, min_size=1, max_size=30), st.floats(0.001, 0.999))
def test_the_threshold_keeps_the_target_and_flags_as_much_as_it_can(benign, malicious, target):
    scores, labels = np.array(benign + malicious), np.repeat([0, 1], [len(benign), len(malicious)])
    try:
        threshold = choose_threshold(scores, labels, target)
    except ValueError:
        assert (np.array(benign) >= np.nextafter(1, 0)).sum() > target * len(benign)
        return
    assert 0 < threshold < 1
    flagged = scores >= threshold
    assert flagged[labels == 0].sum() <= target * len(benign)
    # Whatever is not flagged is no higher than a benign score that the target has no room for.
    highest = scores[~flagged].max()
    assert (np.array(benign) >= highest).sum() > target * len(benign)


# Both


@pytest.mark.parametrize("fit", [fit_calibration, lambda scores, labels: choose_threshold(scores, labels, 0.1)])
class TestUnusableSamples:
    @pytest.mark.parametrize(("label", "missing"), [(0, "malicious"), (1, "benign")])
    def test_a_missing_class_is_named(self, fit, label, missing):
        with pytest.raises(ValueError, match=f"no {missing} calibration sample"):
            fit(np.array([0.1, 0.9]), np.array([label, label]))

    def test_nan_is_refused_with_its_place(self, fit):
        with pytest.raises(ValueError, match="calibration sample 2 is NaN"):
            fit(np.array([0.1, 0.9, math.nan]), np.array([0, 1, 1]))
