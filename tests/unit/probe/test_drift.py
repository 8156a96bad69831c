"""probe/drift.py: the distance to the nearest mixture against scipy's Kolmogorov-Smirnov distance and brute force."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from probe.drift import Drift, collapse, quantiles, watch

UNIFORM = np.linspace(0, 1, 101).tolist()
LOW, HIGH = [x / 2 for x in UNIFORM], [0.5 + x / 2 for x in UNIFORM]
"""Benign scores uniform in 0 ... 0.5 and malicious ones in 0.5 ... 1, which meet but do not overlap."""
SCORES = st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1, max_size=40)
MANY = 10**9
"""Clients of training distributions that are known without error."""


def look(scores, num_clients: int = 100, benign=LOW, malicious=HIGH, threshold: float = 0.5) -> Drift:
    return watch(scores, num_clients, MANY, benign, malicious, threshold)


# Quantiles


def test_quantiles_by_hand():
    assert quantiles(UNIFORM[::-1]) == pytest.approx(UNIFORM, abs=1e-15)
    assert quantiles([0.7]) == [0.7] * 101
    # 101 quantiles of 3 scores: halfway, the 51st, lies the second; a quarter of the way lies half way to it.
    found = quantiles([0.6, 0.2, 0.4])
    assert (len(found), found[0], found[50], found[100]) == (101, 0.2, 0.4, 0.6)
    assert found[25] == pytest.approx(0.3)


# Distance


@settings(max_examples=50, deadline=None)
@given(SCORES)
def test_with_two_equal_classes_it_is_scipys_distance(scores):
    drift = look(scores, benign=UNIFORM, malicious=UNIFORM)
    assert drift.distance == pytest.approx(stats.kstest(scores, "uniform").statistic, abs=1e-12)
    assert drift.share == 0


@settings(max_examples=8, deadline=None)
@given(SCORES)
def test_with_two_classes_it_is_the_smallest_of_scipys_distances_over_the_shares(scores):
    # Both classes are piecewise uniform, so the mixture's distribution function is a straight line on either side of 0.5.
    def mixture(share):
        return lambda x: np.interp(x, [0, 0.5, 1], [0, 1 - share, 1])

    distances = [stats.kstest(scores, mixture(share)).statistic for share in np.linspace(0, 1, 101)]
    drift = look(scores)
    assert drift.distance == pytest.approx(min(distances), abs=1e-12)
    assert distances[round(100 * drift.share)] == pytest.approx(min(distances), abs=1e-12)


def test_the_distance_by_hand():
    # One score at 0.5: the mixture is 1 - share there, and the score's distribution jumps from 0 to 1. The larger of
    # 1 - share and share is smallest, 1/2, at share 1/2.
    drift = look([0.5])
    assert drift.distance == pytest.approx(0.5)
    assert drift.share == pytest.approx(0.5)


@pytest.mark.parametrize(("own", "share"), [(LOW, 0.0), (HIGH, 1.0)])
def test_scores_of_one_class_are_no_drift(own, share):
    drift = look(np.array(own))
    assert drift.share == share
    assert drift.distance < 0.02
    assert (drift.blind, drift.message) == (False, None)


def test_a_class_of_one_score_is_a_jump():
    # Training saw 0.2 for benign and 0.9 for malicious alone. 3 of 4 scores at 0.2 are that mixture exactly.
    drift = look([0.2, 0.9, 0.2, 0.2], benign=[0.2] * 101, malicious=[0.9] * 101)
    assert drift.distance == pytest.approx(0, abs=1e-12)
    assert drift.share == pytest.approx(0.25)
    # Half the scores at 0.5 are between: P(X < 0.5) is 1/4 seen, P(X <= 0.5) 3/4, and a constant in the mixture.
    assert look([0.2, 0.5, 0.5, 0.9], benign=[0.2] * 101, malicious=[0.9] * 101).distance == pytest.approx(0.25)


def test_training_scores_themselves_are_near_their_quantiles():
    random = np.random.default_rng(0)
    benign, malicious = random.beta(2, 8, size=700), random.beta(9, 2, size=300)
    drift = look(np.concatenate([benign, malicious]), benign=quantiles(benign), malicious=quantiles(malicious))
    # Straight lines between quantiles a hundredth apart, and shares a hundredth apart.
    assert drift.distance < 0.01
    assert drift.share == pytest.approx(0.3, abs=0.02)


# Verdict


def test_few_clients_in_training_make_the_test_more_cautious():
    # 1.63 sqrt(1/16 + 1/9) = 1.63 x 5/12.
    assert watch([0.5], 16, 9, LOW, HIGH, 0.5).critical == pytest.approx(1.63 * 5 / 12)


def test_the_critical_distance_is_masseys_for_one_percent():
    assert look([0.5], num_clients=16).critical == pytest.approx(1.63 / 4)
    # It is the 1 % point of the limit distribution, and cautious for fewer clients.
    assert stats.kstwobign.isf(0.01) == pytest.approx(1.63, abs=0.005)
    for n in (4, 10, 50, 1000):
        assert stats.kstwo.sf(look([0.5], num_clients=n).critical, n) < 0.0101


@pytest.mark.parametrize("num_clients", [1, 2])
@pytest.mark.parametrize("score", [0.0, 0.45, 0.5, 1.0])
def test_one_or_two_clients_are_never_drift(score, num_clients):
    # A distance is 1 at most, and the critical one 1.63 / sqrt(2) = 1.15 at least.
    drift = look([score] * 30, num_clients=num_clients)
    assert (drift.critical > 1, drift.blind, drift.message) == (True, False, None)


def test_fewer_than_two_percent_of_rounds_that_are_mixtures_are_drift():
    random = np.random.default_rng(0)
    rounds = [np.where(random.random(20) < 0.3, 0.5, 0.0) + random.random(20) / 2 for _ in range(150)]
    assert sum(look(scores, num_clients=20).message is not None for scores in rounds) <= 3


def test_scores_all_on_one_side_and_unlike_training_are_blindness():
    # All at 0.45: P(X < 0.45) is 0 seen and at least 0.9 (1 - share), P(X <= 0.45) 1; best is share 4/9: distance 1/2.
    drift = look([0.45] * 30, num_clients=12)
    assert drift.distance == pytest.approx(0.5, abs=0.01)
    assert drift.critical < drift.distance
    assert drift.blind
    assert drift.message.startswith(
        "the probe may be blind: all 30 scores of 12 clients lie below its threshold 0.5 and are no mixture of the scores"
    )
    assert "distance 0.50 > 0.47" in drift.message
    assert "defense.level=live" in drift.message


def test_a_score_at_the_threshold_lies_above():
    assert look([0.5] * 30, threshold=0.5).blind
    assert "lie at or above its threshold 0.5" in look([0.5] * 30, threshold=0.5).message
    assert "lie below" in look([0.5] * 30, threshold=0.51).message


def test_drift_on_both_sides_of_the_threshold_is_not_blindness():
    drift = look([0.45, 0.55] * 15, num_clients=30)
    assert not drift.blind
    assert drift.message.startswith("the probe's scores have drifted: 30 scores of 30 clients are no mixture")


def test_clients_count_and_not_scores():
    assert look([0.45] * 300, num_clients=9).message is None  # 0.5 < 1.63 / 3
    assert look([0.45] * 300, num_clients=12).message is not None


# Unusable


@pytest.mark.parametrize("make", [quantiles, look])
@pytest.mark.parametrize(
    ("scores", "message"),
    [([], "no scores"), ([0.1, math.nan], "score nan"), ([0.1, -0.1], r"score -0\.1"), ([1.5], r"score 1\.5")],
)
def test_scores_that_are_no_probabilities_are_refused(make, scores, message):
    with pytest.raises(ValueError, match=message):
        make(scores)


def test_scores_of_no_client_are_refused():
    with pytest.raises(ValueError, match="num_clients=0"):
        look([0.5], num_clients=0)


# Verdicts that fall to one side


@pytest.mark.parametrize(
    ("earlier", "now", "said"),
    [
        ([], 0.0, None),
        ([], 1.0, None),
        ([0.3, 0.3], 0.3, None),
        ([0.3, 0.3, 0.3], 0.0, "flags no client, in earlier rounds it flagged 30%"),
        ([0.5, 0.5], 1.0, "flags every client, in earlier rounds it flagged 50%"),
        ([0.0, 0.0, 0.3], 0.0, None),  # usually nobody
        ([1.0, 1.0, 0.9], 1.0, None),  # usually everybody
        ([0.3, 0.3], 0.1, None),
    ],
)
def test_verdicts_that_all_fall_to_one_side_give_a_warning(earlier, now, said):
    message = collapse(earlier, now)
    assert (message is None) == (said is None)
    assert said is None or said in message
