"""probe/calibration.py: Platt scaling against scikit-learn's logistic regression, and the threshold against its promise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn.linear_model import LogisticRegression

from probe.calibration import Calibration, choose_threshold, fit_calibration, logit, sigmoid

SCORES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.5, 0.9, np.nextafter(1, 0)]))
"""With ties, also at the highest score that a threshold can still not be above."""

# The logistic function


@pytest.mark.parametrize("x", [-700.0, -30.0, -1.5, -1e-9, 0.0, 1e-9, 0.3, 20.0, 700.0])
def test_sigmoid_agrees_with_scipys(x):
    assert sigmoid(x) == pytest.approx(special.expit(x), rel=1e-13, abs=0)


def test_sigmoid_does_not_overflow():
    assert (sigmoid(-5000.0), sigmoid(5000.0), sigmoid(math.inf)) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize("p", [1e-12, 1e-5, 0.25, 0.5, 0.75, 1 - 1e-9])
def test_logit_agrees_with_scipys_and_inverts_sigmoid(p):
    assert logit(p) == pytest.approx(special.logit(p), rel=1e-12, abs=1e-15)
    assert sigmoid(logit(p)) == pytest.approx(p, rel=1e-9)


def test_logit_of_0_and_1_is_that_of_1e_12_from_them():
    # ln(1e-12) = -12 ln 10.
    assert logit(0.0) == logit(1e-13) == pytest.approx(-12 * math.log(10), rel=1e-9)
    assert logit(1.0) == logit(1 - 1e-13) == pytest.approx(12 * math.log(10), rel=1e-5)


def test_nan_stays_nan():
    assert math.isnan(sigmoid(math.nan))
    assert math.isnan(logit(math.nan))


# Platt scaling


def overlapping(number: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose logits are normal, higher for malicious samples, and run too high; every second sample is malicious."""
    labels = np.arange(number) % 2
    logits = scale * (np.random.default_rng(0).normal(size=number) + 1.5 * labels + 0.5)
    return special.expit(logits), labels


def by_regression(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Slope and intercept by scikit-learn: a target t is a malicious sample of weight t and a benign one of weight 1 - t."""
    malicious, benign = (labels == 1).sum(), (labels == 0).sum()
    target = np.where(labels == 1, (malicious + 1) / (malicious + 2), 1 / (benign + 2))
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
    x = special.logit(np.clip(scores, 1e-12, 1 - 1e-12))
    model.fit(np.tile(x, 2)[:, None], np.repeat([1, 0], len(x)), np.concatenate([target, 1 - target]))
    return model.coef_[0, 0], model.intercept_[0]


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
    assert Calibration(slope=1.0, intercept=0.0).apply(np.zeros(0)).tolist() == []


@pytest.mark.parametrize(("slope", "intercept"), [(1e-3, 30.0), (1.0, 0.0), (50.0, -30.0)])
def test_applying_never_reverses_a_ranking(slope, intercept):
    applied = Calibration(slope=slope, intercept=intercept).apply(np.sort([0.0, 1e-14, 0.1, 0.5, 0.5000001, 0.9, 1 - 1e-13, 1.0]))
    assert (np.diff(applied) >= 0).all()
    assert ((applied >= 0) & (applied <= 1)).all()


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.9), (0.0, 1.0), (0.499, 0.501)])
def test_separable_scores_become_platts_smoothed_targets(low, high):
    # Two groups and two parameters, so each group gets its mean target: (10 + 1) / (10 + 2) and 1 / (6 + 2).
    fitted = fit_calibration(np.repeat([low, high], [6, 10]), np.repeat([0, 1], [6, 10]))
    assert 0 < fitted.slope < math.inf
    assert fitted.apply(np.array([low, high])).tolist() == pytest.approx([1 / 8, 11 / 12], abs=1e-4)


@pytest.mark.parametrize("score", [0.0, 0.2, 0.5, 1.0])
def test_a_constant_score_becomes_the_mean_target(score):
    # 20 benign samples of target 1/22 and 10 malicious ones of 11/12: (20/22 + 110/12) / 30.
    fitted = fit_calibration(np.full(30, score), np.repeat([0, 1], [20, 10]))
    assert fitted.slope > 0
    assert fitted.apply(np.array([score]))[0] == pytest.approx((20 / 22 + 110 / 12) / 30, abs=1e-5)


def test_scores_the_wrong_way_round_are_flattened_and_not_reversed():
    scores, labels = np.repeat([0.9, 0.1], 10), np.repeat([0, 1], 10)
    low, high = fit_calibration(scores, labels).apply(np.array([0.1, 0.9]))
    assert low < high < low + 0.01


# Threshold

TENTHS = [*np.arange(1, 11) / 10, 0.95]
"""Benign 0.1 ... 1.0 and a malicious 0.95."""
TIES = [0.2] * 5 + [0.8] * 5 + [0.9]
"""Benign but for the last."""


@pytest.mark.parametrize(
    ("scores", "num_benign", "target_fpr", "threshold"),
    [
        ([0.1, 0.2, 0.6, 0.9], 2, 0.01, 0.4),  # half way between the classes
        # At most 2 of 10: 0.8 must stay below, 0.9 is flagged, half way is 0.85.
        (TENTHS, 10, 0.2, 0.85),
        (TENTHS, 10, 0.29, 0.85),
        # At most 1 of 10: 0.9 stays below, and the next score is the malicious 0.95.
        (TENTHS, 10, 0.1, 0.925),
        # The next score above may be benign or 1.
        ([0.1, 0.2, 0.4, 0.9], 3, 0.34, 0.3),
        ([0.1, 0.2, 0.4, 0.3], 3, 0.01, 0.7),
        # 3 of 10 may be flagged, but 5 of them share the score 0.8: none is.
        (TIES, 10, 0.3, 0.85),
        (TIES, 10, 0.5, 0.5),
        ([0.3] * 20, 10, 0.1, 0.65),  # one score for all flags nothing
        ([0.1, 1.0, 0.5], 2, 0.5, 0.3),  # the target allows a benign score of 1
    ],
)
def test_the_threshold_by_hand(scores, num_benign, target_fpr, threshold):
    labels = np.arange(len(scores)) >= num_benign
    assert choose_threshold(np.array(scores), labels.astype(int), target_fpr) == pytest.approx(threshold)


def test_neighbouring_floats_are_told_apart():
    below, above = 0.3, np.nextafter(0.3, 1)
    for low, high in ((below, above), (above, np.nextafter(above, 1))):
        assert choose_threshold(np.array([low, high]), np.array([0, 1]), 0.01) == high


@pytest.mark.parametrize("score", [1.0, np.nextafter(1, 0)])
def test_benign_scores_of_1_leave_no_threshold(score):
    with pytest.raises(ValueError, match=r"3 of 4 benign calibration samples score 1, .* target_fpr=0\.5"):
        choose_threshold(np.array([0.1, score, score, score, 1.0]), np.array([0, 0, 0, 0, 1]), 0.5)


@settings(max_examples=100, deadline=None)
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


@pytest.mark.parametrize("fit", [fit_calibration, lambda scores, labels: choose_threshold(scores, labels, 0.1)])
@pytest.mark.parametrize(
    ("scores", "labels", "problem"),
    [
        ([0.1, 0.9], [0, 0], "no malicious calibration sample"),
        ([0.1, 0.9], [1, 1], "no benign calibration sample"),
        ([0.1, 0.9, math.nan], [0, 1, 1], "calibration sample 2 is NaN"),
    ],
)
def test_a_missing_class_or_nan_is_refused(fit, scores, labels, problem):
    with pytest.raises(ValueError, match=problem):
        fit(np.array(scores), np.array(labels))
