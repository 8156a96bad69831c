"""probe/classifiers/layerwise.py: the calibrated maximum by hand, what each layer learns, and the file it is kept in."""

import math

import numpy as np
import pytest

from probe.calibration import Calibration, fit_calibration
from probe.classifiers.cross_fit import cross_fit_linear
from probe.classifiers.layerwise import LayerwiseProbe, fit_layerwise
from probe.classifiers.linear import LinearProbe, fit_linear
from probe.classifiers.numbers import NUMBERS_FILE, read_numbers, write_numbers
from probe.config import LinearRecipe
from probe.samples import Samples

SIZES = (4, 6, 5)
VALIDATION = np.repeat(np.isin(np.arange(24), (0, 1, 12, 13)), 3)
RECIPE = LinearRecipe(learning_rate=0.05, weight_decay=0.01, max_epochs=40)


def labelled(seed: int = 1, block: int = 1) -> Samples:
    """3 steps of each of 12 benign and 12 malicious clients, which differ in one block alone."""
    labels = np.repeat([0, 1], 36)
    features = np.random.default_rng(seed).normal(scale=0.1, size=(72, sum(SIZES)))
    features[:, sum(SIZES[:block])] += 2 * labels - 1
    clients = np.repeat([f"c{i}" for i in range(24)], 3)
    return Samples(features.astype(np.float32), labels, clients, clients, np.tile([1, 2, 3], 24), np.full(72, "initial"))


def fit(recipe: LinearRecipe = RECIPE) -> LayerwiseProbe:
    samples = labelled()
    return fit_layerwise(samples.features, samples.labels, [VALIDATION], SIZES, recipe, labelled(seed=2))[0]


@pytest.fixture(scope="module")
def probe() -> LayerwiseProbe:
    return fit()


def by_hand() -> LayerwiseProbe:
    """Layer 0 reads 2 values and is squared in its odds, layer 1 reads one and has its odds divided by 3."""
    return LayerwiseProbe(
        (LinearProbe(np.array([1, -1], dtype=np.float32), 0.0), LinearProbe(np.array([2], dtype=np.float32), 0.0)),
        (Calibration(slope=2.0, intercept=0.0), Calibration(slope=1.0, intercept=-math.log(3))),
    )


# Scores


def test_the_score_is_the_largest_calibrated_probability():
    ln3 = math.log(3)
    # Row 0: odds 3 and 1 become 9 and 1/3. Row 1: odds 1/3 and 9 become 1/9 and 3.
    rows = np.array([[ln3, 0, 0], [0, ln3, ln3]], dtype=np.float32)
    np.testing.assert_allclose(by_hand().score_by_block(rows), [[9 / 10, 1 / 4], [1 / 10, 3 / 4]], rtol=1e-6)
    scores = by_hand().score(rows)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, [9 / 10, 3 / 4], rtol=1e-6)


def test_a_layer_whose_probabilities_run_high_does_not_decide_alone():
    # Uncalibrated, layer 1 would say 3/4 of a row that layer 0 calls even; calibrated, both say 1/2.
    row = np.array([[0, 0, math.log(3) / 2]], dtype=np.float32)
    assert by_hand().probes[1].score(row[:, 2:])[0] == pytest.approx(3 / 4)
    assert by_hand().score(row)[0] == pytest.approx(1 / 2)


def test_a_score_is_the_same_to_the_bit_alone_and_in_any_batch(probe):
    rows = labelled(seed=3).features
    alone = [probe.score(rows[i : i + 1])[0] for i in range(len(rows))]
    for size in (1, 2, 17, 72):
        assert probe.score(rows[:size]).tolist() == alone[:size]
    assert probe.score(rows[::-1]).tolist() == alone[::-1]
    assert probe.score(np.asfortranarray(rows)).tolist() == alone


def test_no_rows_give_no_scores(probe):
    assert probe.score(np.zeros((0, sum(SIZES)), dtype=np.float32)).tolist() == []


# Fit


def test_each_layer_is_a_linear_probe_of_its_own_values_calibrated_on_the_other_samples(probe):
    samples, other = labelled(), labelled(seed=2)
    for index, block in enumerate((slice(0, 4), slice(4, 10), slice(10, 15))):
        alone = fit_linear(samples.features[:, block].copy(), samples.labels, VALIDATION, RECIPE)
        assert probe.probes[index].files() == alone.files()
        assert probe.calibrations[index] == fit_calibration(alone.score(other.features[:, block]), other.labels)


def test_the_layer_with_the_poison_gives_it_away(probe):
    samples = labelled(seed=4)
    malicious = samples.labels == 1
    np.testing.assert_array_equal(probe.score(samples.features) >= 0.7, malicious)
    assert (probe.score_by_block(samples.features[malicious]).argmax(axis=1) == 1).all()
    # The other layers learnt nothing that holds elsewhere, and calibration says so.
    assert probe.score_by_block(samples.features)[:, [0, 2]].max() < 0.7


def test_the_fit_is_deterministic_in_the_seed(probe):
    assert fit().files() == probe.files()
    assert fit(RECIPE.model_copy(update={"seed": 1})).files() != probe.files()


@pytest.mark.parametrize("spoiled", ["training", "calibration"])
def test_nan_is_refused(spoiled):
    parts = {"training": labelled(), "calibration": labelled(seed=2)}
    parts[spoiled].features[5, 7] = math.nan
    with pytest.raises(ValueError, match=r"sample 5 is (nan|NaN)"):
        fit_layerwise(parts["training"].features, parts["training"].labels, [VALIDATION], SIZES, RECIPE, parts["calibration"])


# Files


def test_the_probe_comes_back_from_its_file(probe):
    back = LayerwiseProbe.load(probe.files())
    rows = labelled(seed=3).features
    assert back.num_values == probe.num_values == sum(SIZES)
    assert back.score_by_block(rows).tobytes() == probe.score_by_block(rows).tobytes()
    assert back.files() == probe.files()


def damaged(**changes) -> dict[str, bytes]:
    names = ("weight", "bias", "num_values", "slope", "intercept")
    arrays = dict(zip(names, read_numbers(by_hand().files(), *names), strict=True))
    return write_numbers({name: array for name, array in {**arrays, **changes}.items() if array is not None})


@pytest.mark.parametrize(
    "files",
    [
        damaged(weight=np.ones(4, dtype=np.float32)),
        damaged(weight=np.ones((1, 3), dtype=np.float32)),
        damaged(weight=np.array([1, math.nan, 1], dtype=np.float32)),
        damaged(bias=np.ones(3)),
        damaged(bias=np.ones((2, 1))),
        damaged(slope=np.ones(1)),
        damaged(intercept=np.ones(())),
        damaged(intercept=np.array([0, math.inf])),
        damaged(num_values=np.array([1, 1])),
        damaged(num_values=np.array([3, 0])),
        damaged(num_values=np.array([2.0, 1.0])),
        damaged(num_values=np.array([2, 1, 0])),
        damaged(slope=None),
        {NUMBERS_FILE: by_hand().files()[NUMBERS_FILE][:-8]},
        {},
    ],
)
def test_unusable_files_are_refused_by_name(files):
    assert LayerwiseProbe.load(damaged()).num_values == 3
    with pytest.raises(ValueError, match=r"probe\.safetensors"):
        LayerwiseProbe.load(files)


# Held-out scores


def test_without_other_samples_each_layer_is_calibrated_on_what_its_fits_held_out():
    samples = labelled()
    masks = [np.arange(len(samples)) // 3 % 2 == fold for fold in range(2)]
    probe, scores = fit_layerwise(samples.features, samples.labels, masks, SIZES, RECIPE)
    columns = []
    for block, calibration in zip(np.split(np.arange(15), np.cumsum(SIZES)[:-1]), probe.calibrations, strict=True):
        _, held = cross_fit_linear(samples.features[:, block], samples.labels, masks, RECIPE)
        assert calibration == fit_calibration(held, samples.labels)
        columns.append(calibration.apply(held))
    np.testing.assert_array_equal(scores, np.max(columns, axis=0))


def test_rows_that_no_fit_held_out_have_no_score():
    samples = labelled()
    _, scores = fit_layerwise(samples.features, samples.labels, [VALIDATION], SIZES, RECIPE)
    assert np.isnan(scores).tolist() == (~VALIDATION).tolist()
