"""probe/classifiers/layerwise.py: the calibrated maximum by hand, what each layer learns, and the file it is kept in."""

import math

import numpy as np
import pytest

from probe.calibration import Calibration, fit_calibration
from probe.classifiers.base import TrainingData
from probe.classifiers.layerwise import LayerwiseProbe, fit_layerwise
from probe.classifiers.linear import LinearProbe, LinearSettings, cross_fit_linear, fit_linear
from probe.classifiers.numbers import NUMBERS_FILE, read_numbers, write_numbers
from probe.samples import Samples
from tests.unit.probe.builders import make_samples

SIZES = (4, 6, 5)
BLOCKS = (slice(0, 4), slice(4, 10), slice(10, 15))
VALIDATION = np.repeat(np.isin(np.arange(24), (0, 1, 12, 13)), 3)
SETTINGS = LinearSettings(learning_rate=0.05, weight_decay=0.01, max_epochs=40)


def labelled(seed: int = 1) -> Samples:
    """3 steps of each of 12 benign and 12 malicious clients, which differ in the second block alone."""
    labels = np.repeat([0, 1], 36)
    features = np.random.default_rng(seed).normal(scale=0.1, size=(72, sum(SIZES)))
    features[:, SIZES[0]] += 2 * labels - 1
    return make_samples(labels, clients=np.repeat([f"c{i}" for i in range(24)], 3), features=features)


def fit(masks, calibration: Samples | None = None, settings: LinearSettings = SETTINGS) -> tuple[LayerwiseProbe, np.ndarray]:
    return fit_layerwise(TrainingData(labelled(), masks, "per_layer", SIZES, calibration), settings)


@pytest.fixture(scope="module")
def probe() -> LayerwiseProbe:
    return fit([VALIDATION], labelled(seed=2))[0]


def by_hand() -> LayerwiseProbe:
    """Layer 0 reads 2 values and is squared in its odds, layer 1 reads one and has its odds divided by 3."""
    return LayerwiseProbe(
        (LinearProbe(np.array([1, -1], dtype=np.float32), 0.0), LinearProbe(np.array([2], dtype=np.float32), 0.0)),
        (Calibration(slope=2.0, intercept=0.0), Calibration(slope=1.0, intercept=-math.log(3))),
    )


# Scores


def test_the_score_is_the_largest_calibrated_probability():
    # Row 0: odds 3 and 1 become 9 and 1/3. Row 1: odds 1/3 and 9 become 1/9 and 3. Row 2: odds 1 and 3 become 1 and 1, so
    # a layer whose probabilities are always high does not decide alone.
    ln3 = math.log(3)
    scores = by_hand().score(np.array([[ln3, 0, 0], [0, ln3, ln3], [0, 0, ln3 / 2]], dtype=np.float32))
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, [9 / 10, 3 / 4, 1 / 2], rtol=1e-6)
    assert by_hand().score(np.zeros((0, 3), dtype=np.float32)).tolist() == []


def test_a_score_is_the_same_to_the_bit_alone_and_in_any_batch(probe):
    rows = labelled(seed=3).features
    alone = [probe.score(rows[i : i + 1])[0] for i in range(len(rows))]
    for size in (1, 2, 17, 72):
        assert probe.score(rows[:size]).tolist() == alone[:size]
    assert probe.score(rows[::-1]).tolist() == alone[::-1]
    assert probe.score(np.asfortranarray(rows)).tolist() == alone


# Fit


def test_each_layer_is_a_linear_probe_of_its_own_values_calibrated_on_the_other_samples(probe):
    samples, other = labelled(), labelled(seed=2)
    for index, block in enumerate(BLOCKS):
        alone = fit_linear(samples.features[:, block].copy(), samples.labels, VALIDATION, SETTINGS)
        assert probe.probes[index].files() == alone.files()
        assert probe.calibrations[index] == fit_calibration(alone.score(other.features[:, block]), other.labels)


def test_the_layer_with_the_poison_gives_it_away(probe):
    samples = labelled(seed=4)
    np.testing.assert_array_equal(probe.score(samples.features) >= 0.7, samples.labels == 1)
    # The other layers learnt nothing that holds elsewhere, and calibration says so.
    for layer in (0, 2):
        assert probe.calibrations[layer].apply(probe.probes[layer].score(samples.features[:, BLOCKS[layer]])).max() < 0.7


def test_the_fit_is_deterministic_in_the_seed(probe):
    assert fit([VALIDATION], labelled(seed=2))[0].files() == probe.files()
    assert fit([VALIDATION], labelled(seed=2), SETTINGS.model_copy(update={"seed": 1}))[0].files() != probe.files()


def test_without_other_samples_each_layer_is_calibrated_on_what_its_fits_held_out():
    samples = labelled()
    masks = [np.arange(len(samples)) // 3 % 2 == fold for fold in range(2)]
    probe, scores = fit(masks)
    columns = []
    for block, calibration in zip(BLOCKS, probe.calibrations, strict=True):
        _, held = cross_fit_linear(samples.features[:, block], samples.labels, masks, SETTINGS)
        assert calibration == fit_calibration(held, samples.labels)
        columns.append(calibration.apply(held))
    np.testing.assert_array_equal(scores, np.max(columns, axis=0))


def test_rows_that_no_fit_held_out_have_no_score():
    assert np.isnan(fit([VALIDATION])[1]).tolist() == (~VALIDATION).tolist()


def test_nan_in_the_calibration_samples_is_refused():
    calibration = labelled(seed=2)
    calibration.features[5, 7] = math.nan
    with pytest.raises(ValueError, match="sample 5 is NaN"):
        fit([VALIDATION], calibration)


# Files


def test_the_probe_comes_back_from_its_file(probe):
    back, rows = LayerwiseProbe.load(probe.files()), labelled(seed=3).features
    assert back.num_values == probe.num_values == sum(SIZES)
    assert back.score(rows).tobytes() == probe.score(rows).tobytes()
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
        damaged(bias=np.ones(3)),
        damaged(bias=np.ones((2, 1))),
        damaged(slope=np.ones(1)),
        damaged(intercept=np.ones(())),
        damaged(intercept=np.array([0, math.inf])),
        damaged(num_values=np.array([1, 1])),
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
