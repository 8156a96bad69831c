"""probe/classifiers/boosted.py: the trees' scores, what they learn, and the files they are kept in."""

import math

import numpy as np
import pytest
import xgboost

from probe.classifiers.base import TrainingData
from probe.classifiers.boosted import BoostedProbe, BoostedSettings, cross_fit_boosted, fit_boosted
from probe.classifiers.cosines import ClassMeans, fit_means
from probe.classifiers.numbers import NUMBERS_FILE
from probe.samples import Samples
from tests.unit.probe.builders import make_samples

SIZES = (5, 5, 10)
TREES = "probe.ubj"
CLIENTS = np.repeat(np.arange(60), 4)
VALIDATION = CLIENTS % 10 == 0


def toy(seed: int = 0) -> Samples:
    """4 steps of each of 30 benign and 30 malicious clients; unit blocks, of which the second differs between classes."""
    labels = np.repeat([0, 1], 120)
    rows = np.random.default_rng(seed).normal(size=(240, sum(SIZES)))
    rows[:, 5] += 2 * labels - 1
    for end, size in zip(np.cumsum(SIZES), SIZES, strict=True):
        rows[:, end - size : end] /= np.linalg.norm(rows[:, end - size : end], axis=1, keepdims=True)
    return make_samples(labels, clients=CLIENTS, features=rows)


def fit(sizes=SIZES, seed: int = 0, **settings) -> BoostedProbe:
    return fit_boosted(toy(seed), ~VALIDATION, sizes, BoostedSettings(**settings))


@pytest.fixture(scope="module", params=["cosines", "feature"])
def probe(request) -> BoostedProbe:
    """Reading cosines, or deeper trees reading the feature itself."""
    return fit() if request.param == "cosines" else fit(None, max_depth=3)


# Scores


def test_a_score_is_the_same_to_the_bit_alone_and_in_any_batch(probe):
    rows = toy(seed=3).features
    alone = [probe.score(rows[i : i + 1])[0] for i in range(len(rows))]
    assert len(set(alone)) > 5
    # XGBoost scores blocks of 64 rows.
    for size in (1, 2, 63, 64, 65, 240):
        assert probe.score(rows[:size]).tolist() == alone[:size]
        assert probe.score(rows[-size:]).tolist() == alone[-size:]
    assert probe.score(np.asfortranarray(rows)).tolist() == alone
    assert probe.score(rows[:0]).tolist() == []


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused_and_not_taken_for_missing(probe, poison):
    rows = toy().features
    rows[3, 2] = poison
    with pytest.raises(ValueError, match=f"feature value 2 of sample 3 is {poison}"):
        probe.score(rows)


# Fit


def test_what_differs_between_the_classes_carries_over_to_new_rows(probe):
    new = toy(seed=7)
    assert np.mean((probe.score(new.features) >= 0.5) == new.labels) > 0.75
    # The classes differ in the second block: its cosines, 1 and 4, or its first value, 5, are split at most.
    gains = probe.booster.get_score(importance_type="total_gain")
    assert max(gains, key=gains.get) in (("f1", "f4") if probe.means else ("f5",))


def test_the_means_are_those_of_the_rows_that_are_not_held_out():
    samples = toy()
    assert fit().means.files() == fit_means(samples.features, samples.labels, SIZES, ~VALIDATION).files()
    assert fit(None).means is None


def test_the_settings_reach_xgboost_and_a_score_is_its_probability():
    samples = toy()
    model = xgboost.XGBClassifier(n_estimators=80, max_depth=1, learning_rate=0.3, random_state=0, n_jobs=1)
    model.fit(samples.features[~VALIDATION], samples.labels[~VALIDATION])
    probe = fit(None)
    assert probe.booster.num_boosted_rounds() == 80
    np.testing.assert_allclose(probe.score(samples.features), model.predict_proba(samples.features)[:, 1], rtol=1e-5)


def test_a_row_outside_the_fit_changes_nothing():
    samples = toy()
    samples.features[VALIDATION] *= -1
    samples.labels[VALIDATION] = 1 - samples.labels[VALIDATION]
    assert fit_boosted(samples, ~VALIDATION, SIZES, BoostedSettings()).files() == fit().files()


@pytest.mark.parametrize(("feature", "sizes"), [("module_cosines", SIZES), ("first_layer_b", None)])
def test_every_row_is_scored_by_trees_that_did_not_see_it(feature, sizes):
    samples, settings = toy(), BoostedSettings(num_trees=10)
    masks = [fold == CLIENTS % 3 for fold in range(3)]
    probe, scores = cross_fit_boosted(TrainingData(samples, masks, feature, SIZES), settings)
    for mask in masks:
        assert scores[mask].tolist() == fit_boosted(samples, ~mask, sizes, settings).score(samples.features[mask]).tolist()
    assert probe.files() == fit_boosted(samples, np.ones(240, dtype=bool), sizes, settings).files()


def test_the_classes_weigh_equally_whatever_their_numbers():
    # Three benign rows to one malicious. One constant value tells nothing: 1/2, and not 1/4.
    rows = np.arange(80) % 4 != 0
    constant = fit_boosted(make_samples(np.repeat([0, 1], [60, 20]), features=np.ones((80, 1))), rows, None, BoostedSettings())
    assert constant.score(np.ones((1, 1), dtype=np.float32)).tolist() == [0.5]
    # x = 1 for 1 benign row in 3 and 2 malicious rows in 3: weighed equally, P(malicious | x = 1) = 2/3.
    x = np.concatenate([np.tile([1, -1, -1], 60), np.tile([1, 1, -1], 20)])[:, None]
    samples = make_samples(np.repeat([0, 1], [180, 60]), features=x)
    probe = fit_boosted(samples, np.repeat(rows, 3), None, BoostedSettings(num_trees=200))
    assert probe.score(np.array([[1], [-1]], dtype=np.float32)).tolist() == pytest.approx([2 / 3, 1 / 3], abs=0.01)


@pytest.mark.parametrize("sizes", [SIZES, None])
def test_the_same_samples_give_the_same_bytes(sizes):
    assert fit(sizes).files() == fit(sizes).files()
    assert fit(sizes).files() != fit(sizes, seed=1).files()


# Files


def test_the_probe_comes_back_from_its_files(probe):
    back, rows = BoostedProbe.load(probe.files()), toy(seed=3).features
    assert back.score(rows).tobytes() == probe.score(rows).tobytes()
    assert back.files() == probe.files()
    assert back.num_values == probe.num_values == sum(SIZES)
    assert set(probe.files()) == ({TREES, NUMBERS_FILE} if probe.means else {TREES})


def test_trees_that_were_cut_off_are_refused(probe):
    content = probe.files()[TREES]
    # A cut right behind an inner "}" is left to the artefact's hash.
    for length in (length for length in range(0, len(content), 997) if not content[:length].endswith(b"}")):
        with pytest.raises(ValueError, match=r"probe\.ubj cannot be used"):
            BoostedProbe.load({**probe.files(), TREES: content[:length]})


@pytest.mark.parametrize("content", [b"", b"not a model", b"{}", b'{"learner": {}}'])
def test_a_file_that_holds_no_trees_is_refused(content):
    with pytest.raises(ValueError, match=r"probe\.ubj cannot be used"):
        BoostedProbe.load({TREES: content})


def test_damaged_or_foreign_means_are_refused():
    files = fit().files()
    with pytest.raises(ValueError, match=r"probe\.safetensors"):
        BoostedProbe.load({**files, NUMBERS_FILE: files[NUMBERS_FILE][:-1]})
    means = ClassMeans(np.ones((2, 4), dtype=np.float32), (2, 2))
    with pytest.raises(ValueError, match=r"probe\.ubj reads 6 cosines, the class means give 4"):
        BoostedProbe.load({TREES: files[TREES], **means.files()})
