"""probe/classifiers/boosted.py: the trees' scores, what their fit learns and stops at, and the files they are kept in."""

import json
import math

import numpy as np
import pytest
import xgboost

from probe.classifiers.boosted import BoostedProbe, cross_fit_boosted, fit_boosted
from probe.classifiers.cosines import ClassMeans, fit_means
from probe.classifiers.numbers import NUMBERS_FILE
from probe.config import BoostedRecipe

SIZES = (5, 5, 10)
TREES = "probe.ubj"
CLIENTS = np.repeat(np.arange(60), 4)
VALIDATION = CLIENTS % 10 == 0


def toy(seed: int = 0, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """4 steps of each of 30 benign and 30 malicious clients; unit blocks, of which the second differs between classes."""
    labels = np.repeat([0, 1], 120)
    rows = np.random.default_rng(seed).normal(size=(240, sum(SIZES)))
    rows[:, 5] += shift * (2 * labels - 1)
    for end, size in zip(np.cumsum(SIZES), SIZES, strict=True):
        rows[:, end - size : end] /= np.linalg.norm(rows[:, end - size : end], axis=1, keepdims=True)
    return rows.astype(np.float32), labels


def fit(sizes=SIZES, recipe: BoostedRecipe | None = None, seed: int = 0) -> BoostedProbe:
    return fit_boosted(*toy(seed), CLIENTS, ~VALIDATION, sizes, recipe or BoostedRecipe())


@pytest.fixture(scope="module", params=["cosines", "feature"])
def probe(request) -> BoostedProbe:
    """Reading cosines, or deeper trees reading the feature itself."""
    return fit() if request.param == "cosines" else fit(None, BoostedRecipe(max_depth=3))


# Scores


def leaf(node: dict, row: np.ndarray) -> float:
    """The value of the leaf that a row falls into, walked by hand."""
    while "leaf" not in node:
        below = row[int(node["split"][1:])] < np.float32(node["split_condition"])
        node = next(child for child in node["children"] if child["nodeid"] == (node["yes"] if below else node["no"]))
    return node["leaf"]


def test_a_score_is_the_sigmoid_of_the_sum_of_the_trees(probe):
    rows, _ = toy(seed=3)
    inputs = probe.means.cosines(rows) if probe.means else rows
    trees = [json.loads(tree) for tree in probe.booster.get_dump(dump_format="json")]
    base = json.loads(json.loads(probe.booster.save_config())["learner"]["learner_model_param"]["base_score"])[0]
    margins = [math.log(base / (1 - base)) + math.fsum(leaf(tree, row) for tree in trees) for row in inputs]
    scores = probe.score(rows)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-np.array(margins))), rtol=1e-5)


def test_a_score_is_the_same_to_the_bit_alone_and_in_any_batch(probe):
    rows, _ = toy(seed=3)
    alone = [probe.score(rows[i : i + 1])[0] for i in range(len(rows))]
    assert len(set(alone)) > 5
    # XGBoost scores blocks of 64 rows.
    for size in (1, 2, 7, 63, 64, 65, 128, 240):
        assert probe.score(rows[:size]).tolist() == alone[:size]
        assert probe.score(rows[-size:]).tolist() == alone[-size:]
    order = np.random.default_rng(5).permutation(len(rows))
    assert probe.score(rows[order]).tolist() == [alone[i] for i in order]
    assert probe.score(np.asfortranarray(rows)).tolist() == alone


def test_no_rows_give_no_scores(probe):
    assert probe.score(np.zeros((0, sum(SIZES)), dtype=np.float32)).tolist() == []


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused_and_not_taken_for_missing(probe, poison):
    rows, _ = toy()
    rows[3, 2] = poison
    with pytest.raises(ValueError, match=f"feature value 2 of sample 3 is {poison}"):
        probe.score(rows)


# Fit


def test_what_differs_between_the_classes_carries_over_to_new_rows(probe):
    rows, labels = toy(seed=7)
    scores = probe.score(rows)
    assert np.mean((scores >= 0.5) == labels) > 0.75
    # The classes differ in the second block: its cosines, 1 and 4, or its first value, 5, are split at most.
    gains = probe.booster.get_score(importance_type="total_gain")
    assert max(gains, key=gains.get) in (("f1", "f4") if probe.means else ("f5",))


def test_the_means_are_those_of_the_rows_that_are_not_held_out():
    rows, labels = toy()
    assert fit().means.files() == fit_means(rows[~VALIDATION], labels[~VALIDATION], SIZES).files()
    assert fit(None).means is None


def test_the_fit_agrees_with_scikit_learns_interface_of_xgboost():
    rows, labels = toy()
    model = xgboost.XGBClassifier(n_estimators=80, max_depth=1, learning_rate=0.3, random_state=0, n_jobs=1)
    model.fit(rows[~VALIDATION], labels[~VALIDATION])
    probe = fit(None)
    assert probe.booster.num_boosted_rounds() == 80
    np.testing.assert_allclose(probe.score(rows), model.predict_proba(rows)[:, 1], rtol=1e-5)


def test_a_row_outside_the_fit_changes_nothing():
    rows, labels = toy()
    changed = rows.copy()
    changed[VALIDATION] *= -1
    probe = fit_boosted(changed, np.where(VALIDATION, 1 - labels, labels), CLIENTS, ~VALIDATION, SIZES, BoostedRecipe())
    assert probe.files() == fit().files()


def test_with_one_mask_the_held_out_rows_are_scored_by_the_probe_itself():
    probe, scores = cross_fit_boosted(*toy(), CLIENTS, [VALIDATION], SIZES, BoostedRecipe())
    assert probe.files() == fit().files()
    assert np.isnan(scores[~VALIDATION]).all()
    assert scores[VALIDATION].tolist() == probe.score(toy()[0][VALIDATION]).tolist()


def test_with_several_masks_every_row_is_scored_by_trees_that_did_not_see_it():
    rows, labels = toy()
    masks = [fold == CLIENTS % 3 for fold in range(3)]
    probe, scores = cross_fit_boosted(rows, labels, CLIENTS, masks, SIZES, BoostedRecipe(num_trees=10))
    for mask in masks:
        part = fit_boosted(rows, labels, CLIENTS, ~mask, SIZES, BoostedRecipe(num_trees=10))
        assert scores[mask].tolist() == part.score(rows[mask]).tolist()
    everything = fit_boosted(rows, labels, CLIENTS, np.ones(240, dtype=bool), SIZES, BoostedRecipe(num_trees=10))
    assert probe.files() == everything.files()


def test_the_classes_weigh_equally_whatever_their_numbers():
    # Three benign rows to one malicious. One constant value tells nothing: 1/2, and not 1/4.
    labels, validation = np.repeat([0, 1], [60, 20]), np.arange(80) % 4 == 0
    constant = fit_boosted(np.ones((80, 1), dtype=np.float32), labels, np.arange(80), ~validation, None, BoostedRecipe())
    assert constant.score(np.ones((1, 1), dtype=np.float32)).tolist() == [0.5]
    # x = 1 for 1 benign row in 3 and 2 malicious rows in 3: weighed equally, P(malicious | x = 1) = 2/3.
    x = np.concatenate([np.tile([1, -1, -1], 60), np.tile([1, 1, -1], 20)]).astype(np.float32)[:, None]
    labels = np.repeat([0, 1], [180, 60])
    validation = np.repeat(np.arange(80) % 4 == 0, 3)
    probe = fit_boosted(x, labels, np.arange(240), ~validation, None, BoostedRecipe(num_trees=200))
    assert probe.score(np.array([[1], [-1]], dtype=np.float32)).tolist() == pytest.approx([2 / 3, 1 / 3], abs=0.01)


@pytest.mark.parametrize("sizes", [SIZES, None])
def test_the_same_samples_give_the_same_bytes(sizes):
    assert fit(sizes).files() == fit(sizes).files()
    assert fit(sizes).files() != fit(sizes, seed=1).files()


@pytest.mark.parametrize("sizes", [SIZES, None])
@pytest.mark.parametrize("held_out", [False, True])
def test_nan_is_refused_in_training_and_in_held_out_rows(sizes, held_out):
    rows, labels = toy()
    row = np.flatnonzero(VALIDATION if held_out else ~VALIDATION)[0]
    rows[row, 4] = math.nan
    with pytest.raises(ValueError, match=f"feature value 4 of sample {row} is nan"):
        fit_boosted(rows, labels, CLIENTS, ~VALIDATION, sizes, BoostedRecipe())


# Files


def test_the_probe_comes_back_from_its_files(probe):
    back = BoostedProbe.load(probe.files())
    rows, _ = toy(seed=3)
    assert back.score(rows).tobytes() == probe.score(rows).tobytes()
    assert back.files() == probe.files()
    assert back.num_values == probe.num_values == sum(SIZES)
    assert set(probe.files()) == ({TREES, NUMBERS_FILE} if probe.means else {TREES})


def test_trees_that_were_cut_off_are_refused(probe):
    content = probe.files()[TREES]
    # A cut right behind an inner "}" is left to the artefact's hash.
    for length in (length for length in range(0, len(content), 53) if not content[:length].endswith(b"}")):
        with pytest.raises(ValueError, match=r"probe\.ubj cannot be used"):
            BoostedProbe.load({**probe.files(), TREES: content[:length]})


@pytest.mark.parametrize("content", [b"", b"not a model", b"{}", b'{"learner": {}}'])
def test_a_file_that_holds_no_trees_is_refused(content):
    with pytest.raises(ValueError, match=r"probe\.ubj cannot be used"):
        BoostedProbe.load({TREES: content})


def test_missing_trees_are_refused():
    with pytest.raises(ValueError, match=r"probe\.ubj cannot be used"):
        BoostedProbe.load({NUMBERS_FILE: fit().files()[NUMBERS_FILE]})


def test_damaged_means_are_refused():
    files = fit().files()
    with pytest.raises(ValueError, match=r"probe\.safetensors"):
        BoostedProbe.load({**files, NUMBERS_FILE: files[NUMBERS_FILE][:-1]})


def test_trees_and_means_of_different_probes_are_refused():
    means = ClassMeans(np.ones((2, 4), dtype=np.float32), (2, 2))
    with pytest.raises(ValueError, match=r"probe\.ubj reads 6 cosines, the class means give 4"):
        BoostedProbe.load({TREES: fit().files()[TREES], **means.files()})
