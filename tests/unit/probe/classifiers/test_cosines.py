"""probe/classifiers/cosines.py: class means and cosines by hand and against scipy, and the file they are kept in."""

import math

import numpy as np
import pytest
from scipy.spatial.distance import cosine

from probe.classifiers.cosines import ClassMeans, cross_fitted_cosines, fit_means
from probe.classifiers.numbers import NUMBERS_FILE, write_numbers
from tests.unit.probe.builders import make_samples

SIZES = (3, 1, 4)


def rows(number: int, seed: int = 0) -> np.ndarray:
    """Rows of unit blocks."""
    features = np.random.default_rng(seed).normal(size=(number, sum(SIZES)))
    for end, size in zip(np.cumsum(SIZES), SIZES, strict=True):
        features[:, end - size : end] /= np.linalg.norm(features[:, end - size : end], axis=1, keepdims=True)
    return features.astype(np.float32)


def fit_all(features, labels, sizes) -> ClassMeans:
    return fit_means(np.array(features, dtype=np.float32), np.array(labels), sizes, np.ones(len(labels), dtype=bool))


def fitted(seed: int = 1) -> ClassMeans:
    return fit_all(rows(10, seed), np.arange(10) % 2, SIZES)


def kept(means, sizes) -> dict[str, bytes]:
    return write_numbers({"means": np.asarray(means), "sizes": np.asarray(sizes)})


# Means


def test_the_means_of_each_class_have_unit_blocks():
    # Benign mean (3, 4 | 0, 2): blocks (0.6, 0.8) and (0, 1). Malicious mean (0, -1 | 1, 1).
    fitted = fit_all([[2, 4, 0, 1], [4, 4, 0, 3], [1, -1, 1, 1], [-1, -1, 1, 1]], [0, 0, 1, 1], (2, 2))
    np.testing.assert_allclose(fitted.means, [[0.6, 0.8, 0, 1], [0, -1, math.sqrt(0.5), math.sqrt(0.5)]], rtol=1e-7)
    assert fitted.means.dtype == np.float32
    assert fitted.sizes == (2, 2)
    assert fitted.num_values == 4


def test_a_class_whose_block_cancels_out_has_a_mean_and_cosines_of_0():
    features = np.array([[1, 0, 1], [-1, 0, 1], [0, 1, 1]], dtype=np.float32)
    fitted = fit_all(features, [0, 0, 1], (2, 1))
    assert fitted.means.tolist() == [[0, 0, 1], [0, 1, 1]]
    assert fitted.cosines(features).tolist() == [[0, 1, 0, 1], [0, 1, 0, 1], [0, 1, 1, 1]]


def test_means_are_taken_in_float64():
    # In float32, 2^24 + 1 is 2^24, and the first value's mean would be 0 after the third row.
    fitted = fit_all([[2**24, 1], [1, 1], [-(2**24), 1], [0, 1], [1, 0]], [0, 0, 0, 0, 1], (2,))
    np.testing.assert_allclose(fitted.means[0], np.array([1, 4]) / math.sqrt(17), rtol=1e-7)


# Cosines


def test_cosines_of_each_block_to_the_benign_and_then_the_malicious_mean():
    means = ClassMeans(np.array([[0.6, 0.8, 1], [1, 0, -1]], dtype=np.float32), (2, 1))
    # Row (0.8, 0.6 | 1): 0.48 + 0.48 = 0.96 and 1 to benign; 0.8 and -1 to malicious.
    cosines = means.cosines(np.array([[0.8, 0.6, 1]], dtype=np.float32))
    assert cosines.dtype == np.float32
    np.testing.assert_allclose(cosines, [[0.96, 1, 0.8, -1]], rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_cosines_agree_with_scipys_and_leave_the_features_as_they_are(seed):
    features, means = rows(5, seed), fitted(seed + 1)
    blocks = [slice(0, 3), slice(3, 4), slice(4, 8)]
    expected = [
        [1 - cosine(row[block].astype(float), mean[block].astype(float)) for mean in means.means for block in blocks]
        for row in features
    ]
    np.testing.assert_allclose(means.cosines(features), expected, atol=3e-7)
    np.testing.assert_array_equal(features, rows(5, seed))


def test_a_row_is_the_same_to_the_bit_alone_and_in_any_batch():
    features, means = rows(70), fitted()
    alone = [means.cosines(features[i : i + 1]).tobytes() for i in range(len(features))]
    for size in (1, 2, 8, 33, 70):
        assert [row.tobytes() for row in means.cosines(features[:size])] == alone[:size]
    order = np.random.default_rng(5).permutation(len(features))
    assert [row.tobytes() for row in means.cosines(features[order])] == [alone[i] for i in order]
    assert [row.tobytes() for row in means.cosines(np.asfortranarray(features))] == alone
    assert means.cosines(features[:0]).shape == (0, 6)


# Files


def test_means_come_back_from_their_file():
    means = fitted()
    back = ClassMeans.load(means.files())
    assert back.means.tobytes() == means.means.tobytes()
    assert back.sizes == SIZES
    assert back.files() == means.files()


@pytest.mark.parametrize(
    "files",
    [
        kept(np.ones((2, 8)), [3, 1, 3]),
        kept(np.ones((3, 8)), SIZES),
        kept(np.ones(8), SIZES),
        kept(np.full((2, 8), math.nan), SIZES),
        write_numbers({"means": np.ones((2, 8))}),
        {NUMBERS_FILE: fitted().files()[NUMBERS_FILE][:-1]},
        {NUMBERS_FILE: b""},
        {},
    ],
)
def test_unusable_files_are_refused_by_name(files):
    with pytest.raises(ValueError, match=r"probe\.safetensors"):
        ClassMeans.load(files)


# Cross-fitting


def test_a_training_sample_is_compared_with_the_means_of_other_clients():
    # Two clients a class and one row each, so two folds: a client's fold leaves the other client of its class as the mean.
    features = np.array([[1, 0], [0, 1], [-1, 0], [0.6, 0.8], [1, 0]])
    samples, rows = make_samples([0, 0, 1, 1, 0], clients=list("abcde"), features=features), np.arange(5) < 4
    cosines, means = cross_fitted_cosines(samples, (2,), rows)
    # a to b is 0, to d 0.6; b to a is 0, to c 0; c to b is 0, to d -0.6; d to a is 0.6, to c -0.6.
    np.testing.assert_allclose(cosines[:4], [[0, 0.6], [0, 0], [0, -0.6], [0.6, -0.6]], atol=1e-7)
    assert means.files() == fit_all(features[:4], [0, 0, 1, 1], (2,)).files()
    np.testing.assert_array_equal(cosines[4], means.cosines(samples.features[4:])[0])


def test_all_steps_of_a_client_leave_the_mean_together():
    # Client a's two equal rows would support each other; its class's mean without it is client b, at a right angle.
    samples = make_samples([0, 0, 0, 1, 1], clients=list("aabcd"), features=[[1, 0], [1, 0], [0, 1], [-1, 0], [0, -1]])
    cosines, _ = cross_fitted_cosines(samples, (2,), np.ones(5, dtype=bool))
    assert cosines[:2, 0].tolist() == [0, 0]


def test_a_class_of_one_client_cannot_be_cross_fitted_and_keeps_its_mean():
    samples = make_samples([0, 0, 0, 0, 1, 1], clients=list("abcdee"), features=rows(6))
    cosines, means = cross_fitted_cosines(samples, SIZES, np.ones(6, dtype=bool))
    np.testing.assert_array_equal(cosines, means.cosines(samples.features))
