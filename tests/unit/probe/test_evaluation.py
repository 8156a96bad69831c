"""probe/evaluation.py: figures worked out by hand and against scikit-learn, intervals over clients, breakdowns, refusals."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from probe.evaluation import calibration_bins, evaluate_scores, exclude_seen
from tests.unit.probe.builders import make_samples

FIGURES = {"roc_auc", "pr_auc", "tpr", "fpr", "brier", "expected_calibration_error"}


BENIGN, MALICIOUS = [0.1, 0.4, 0.8], [0.35, 0.8, 0.9]
SCORES, SAMPLES = np.array(BENIGN + MALICIOUS), make_samples([0, 0, 0, 1, 1, 1])


# Figures


def test_every_figure_by_hand():
    report = evaluate_scores(SCORES, SAMPLES, 0.8, bootstrap=0)
    # Of 9 pairs, 0.35 is above 1 benign score, 0.8 above 2 and ties with 1, and 0.9 is above 3.
    assert report["roc_auc"] == pytest.approx(6.5 / 9)
    # Each third of the recall comes at precision 1 (0.9), 2/3 (0.8, with one false alarm) and 3/5 (0.35, with two).
    assert report["pr_auc"] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert (report["tpr"], report["fpr"]) == pytest.approx((2 / 3, 1 / 3))
    assert report["brier"] == pytest.approx((0.01 + 0.16 + 0.64 + 0.65**2 + 0.04 + 0.01) / 6)
    # Bins of one sample are off by 0.1, 0.65, 0.4 and 0.1; the two samples at 0.8, half malicious, by 0.3 each.
    assert report["expected_calibration_error"] == pytest.approx((0.1 + 0.65 + 0.4 + 0.1 + 2 * 0.3) / 6)
    assert report["confusion"] == {"true_positive": 2, "false_positive": 1, "true_negative": 2, "false_negative": 1}
    assert report["num_samples"] == 6
    assert report["num_clients"] == {"benign": 3, "malicious": 3}
    assert report["threshold"] == 0.8
    assert report["intervals"] == {}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.one_of(st.floats(0, 1), st.integers(0, 4).map(lambda x: x / 4))), max_size=40),
    st.floats(0.01, 0.99),
)
def test_the_figures_agree_with_scikit_learns(rows, threshold):
    labels, scores = (np.array(column) for column in zip((0, 0.5), (1, 0.5), *rows, strict=True))
    report = evaluate_scores(scores, make_samples(labels), threshold, bootstrap=0)
    assert report["roc_auc"] == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)
    assert report["pr_auc"] == pytest.approx(metrics.average_precision_score(labels, scores), abs=1e-12)
    assert report["brier"] == pytest.approx(metrics.brier_score_loss(labels, scores), abs=1e-12)
    flagged = scores >= threshold
    assert report["tpr"] == pytest.approx(metrics.recall_score(labels, flagged), abs=1e-12)
    assert report["fpr"] == pytest.approx(1 - metrics.recall_score(labels, flagged, pos_label=0), abs=1e-12)
    (tn, fp), (fn, tp) = metrics.confusion_matrix(labels, flagged, labels=[0, 1]).tolist()
    confusion = {"true_positive": tp, "false_positive": fp, "true_negative": tn, "false_negative": fn}
    assert report["confusion"] == confusion


def test_a_score_at_the_threshold_is_flagged():
    assert evaluate_scores(SCORES, SAMPLES, np.nextafter(0.8, 1), bootstrap=0)["tpr"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("tenth", range(11))
def test_bins_are_closed_below_and_the_last_one_above(tenth):
    sums = calibration_bins(np.array([tenth / 10]), np.array([2.5]))
    assert sums.tolist() == [2.5 if index == min(tenth, 9) else 0 for index in range(10)]


def test_the_report_is_plain_json():
    report = evaluate_scores(SCORES, SAMPLES, np.float32(0.5), bootstrap=5)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


# Intervals


def test_the_default_gives_an_interval_around_every_figure():
    report = evaluate_scores(SCORES, SAMPLES, 0.8)
    assert set(report["intervals"]) == FIGURES
    for name, (low, high) in report["intervals"].items():
        assert low < high
        # Resamples of a calibration error run higher than it: their bins hold fewer clients.
        assert low <= report[name] <= high or name == "expected_calibration_error"


def test_with_one_client_per_class_every_resample_is_the_sample():
    report = evaluate_scores(SCORES, make_samples([0, 0, 0, 1, 1, 1], clients=list("aaabbb")), 0.8, bootstrap=20)
    for name, interval in report["intervals"].items():
        assert interval == [report[name], report[name]]


def test_clients_are_drawn_and_not_samples():
    # One benign client is flagged in all its 50 samples, the other in none: resamples flag 0, 1/2 or all of them, where
    # draws of 100 samples would stay near 1/2.
    labels, clients = [0] * 100 + [1] * 10, ["quiet"] * 50 + ["loud"] * 50 + ["bad"] * 10
    scores = [0.1] * 50 + [0.9] * 50 + [0.95] * 10
    report = evaluate_scores(scores, make_samples(labels, clients), 0.8)
    assert report["fpr"] == 0.5
    assert report["intervals"]["fpr"] == [0, 1]
    assert report["intervals"]["tpr"] == [1, 1]


def test_an_interval_agrees_with_the_binomial_distribution():
    # 40 benign clients of one sample each, 10 of them flagged: a resample flags Binomial(40, 1/4) / 40.
    scores = [0.9] * 10 + [0.1] * 30 + [0.95]
    low, high = evaluate_scores(scores, make_samples([0] * 40 + [1]), 0.8, bootstrap=4000)["intervals"]["fpr"]
    # P(X <= 4) = 0.016 and P(X <= 5) = 0.043; P(X <= 15) = 0.974 and P(X <= 16) = 0.988.
    assert low == 5 / 40
    assert high in (15 / 40, 16 / 40)


def test_intervals_depend_on_the_seed_alone():
    first, again, other = (evaluate_scores(SCORES, SAMPLES, 0.8, bootstrap=15, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first["intervals"] != other["intervals"]
    assert {name: first[name] for name in FIGURES} == {name: other[name] for name in FIGURES}


# Breakdowns


def test_breakdowns_by_hand():
    samples = make_samples(
        [0, 0, 0, 1, 1, 1], families=list("aabccc"), steps=[10, 2, 2, 10, 2, 2], states=["initial"] * 5 + ["round-3"]
    )
    report = evaluate_scores(SCORES, samples, 0.8, bootstrap=0)
    assert list(report["by_step"]) == ["2", "10"]
    assert report["by_step"]["10"] == pytest.approx(
        {"num_samples": 2, "roc_auc": 1, "tpr": 0, "fpr": 0, "brier": (0.01 + 0.65**2) / 2, "mean_score": 0.225}
    )
    # Step 2: benign 0.4 and 0.8, malicious 0.8 and 0.9: 3 pairs won, one tied.
    assert report["by_step"]["2"]["roc_auc"] == 3.5 / 4
    assert (report["by_step"]["2"]["tpr"], report["by_step"]["2"]["fpr"]) == (1, 0.5)
    assert {name: part["num_samples"] for name, part in report["by_family"].items()} == {"a": 2, "b": 1, "c": 3}
    assert report["by_family"]["b"] == pytest.approx(
        {"num_samples": 1, "roc_auc": None, "tpr": None, "fpr": 1, "brier": 0.64, "mean_score": 0.8}
    )
    assert report["by_family"]["c"]["tpr"] == pytest.approx(2 / 3)
    assert report["by_family"]["c"]["fpr"] is None
    assert {name: part["num_samples"] for name, part in report["by_state"].items()} == {"initial": 5, "round-3": 1}


# Unusable scores and samples


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.01, 1.01])
def test_a_score_that_is_no_probability_is_refused_with_its_place(bad):
    scores = SCORES.copy()
    scores[4] = bad
    with pytest.raises(ValueError, match=f"score {bad} of sample 4 is no probability"):
        evaluate_scores(scores, SAMPLES, 0.8)


@pytest.mark.parametrize("scores", [SCORES[:5], SCORES[:, None], np.append(SCORES, 0.5)])
def test_each_sample_takes_one_score(scores):
    with pytest.raises(ValueError, match="for 6 samples; give one score per sample"):
        evaluate_scores(scores, SAMPLES, 0.8)


@pytest.mark.parametrize(("labels", "message"), [([], "no samples"), ([0, 0], "no malicious"), ([1, 1], "no benign")])
def test_a_missing_class_is_named(labels, message):
    with pytest.raises(ValueError, match=message):
        evaluate_scores([0.5] * len(labels), make_samples(labels), 0.8)


# Unseen samples


def test_samples_of_a_seen_family_or_client_are_left_out():
    samples = make_samples([0, 0, 0, 1, 1, 1], families=["a", "b", "b", "x", "y", "y"])
    rest, number = exclude_seen(samples, families=["a", "x", "never collected"], clients={"c2"})
    assert rest.clients.tolist() == ["c1", "c4", "c5"]
    assert rest.labels.tolist() == [0, 1, 1]
    assert rest.features.shape == (3, 0)
    assert number == 3


def test_where_nothing_was_seen_all_are_kept():
    rest, number = exclude_seen(SAMPLES, [], [])
    assert rest.clients.tolist() == SAMPLES.clients.tolist()
    assert number == 0


def test_when_too_little_is_unseen_the_seen_families_are_named():
    samples = make_samples([0, 0, 1, 1], families=["a", "b", "x", "y"])
    with pytest.raises(ValueError, match=r"without the 2 samples .*\['x', 'y'\].* no malicious client; collect"):
        exclude_seen(samples, families=["x", "y", "z"], clients=[])
