"""probe/classifiers/numbers.py: arrays survive the file, and anything else in the file is a ValueError that names it."""

import math

import numpy as np
import pytest
from safetensors.numpy import save

from probe.classifiers.numbers import NUMBERS_FILE, as_sizes, check_finite, read_numbers, write_numbers

ARRAYS = {"weight": np.arange(6, dtype=np.float32), "bias": np.array([1.5]), "sizes": np.array([2, 4])}
CONTENT = write_numbers(ARRAYS)[NUMBERS_FILE]


def read(content: bytes) -> list[np.ndarray]:
    return read_numbers({NUMBERS_FILE: content}, *ARRAYS)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32),
        np.array([[0.1, -0.0]]),
        np.arange(6).reshape(1, 2, 3),
        np.arange(6.0).reshape(2, 3).T,
        np.arange(12.0)[::2],
        np.arange(3.0)[::-1],
    ],
)
def test_arrays_come_back_to_the_bit_in_the_order_asked_for_whatever_their_memory_layout(array):
    other, back = read_numbers(write_numbers({"array": array, "other": np.ones(2)}), "other", "array")
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert other.tolist() == [1, 1]


def test_the_same_arrays_give_the_same_bytes():
    assert write_numbers(dict(reversed(ARRAYS.items()))) == {NUMBERS_FILE: CONTENT}


def test_a_missing_file_or_array_is_named():
    with pytest.raises(ValueError, match=r"probe\.safetensors cannot be used"):
        read_numbers({"probe.json": CONTENT}, "weight")
    with pytest.raises(ValueError, match=r"probe\.safetensors cannot be used: 'slope'"):
        read_numbers({NUMBERS_FILE: CONTENT}, "weight", "slope")


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_one_value_that_is_not_finite_is_refused_with_its_array(poison, kind):
    content = save({**ARRAYS, "weight": np.array([1, poison, 3], dtype=kind)})
    with pytest.raises(ValueError, match=r"probe\.safetensors holds NaN or infinity in weight"):
        read(content)


def test_arrays_that_are_not_asked_for_may_hold_anything():
    content = save({**ARRAYS, "spare": np.array([math.nan])})
    assert [array.tolist() for array in read(content)] == [array.tolist() for array in ARRAYS.values()]


def test_a_file_that_was_cut_off_anywhere_is_refused():
    for length in range(len(CONTENT)):
        with pytest.raises(ValueError, match=r"probe\.safetensors"):
            read(CONTENT[:length])


def test_a_flipped_bit_is_refused_or_gives_finite_numbers():
    for bit in range(8 * len(CONTENT)):
        damaged = bytearray(CONTENT)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            arrays = read(bytes(damaged))
        except ValueError as error:
            assert NUMBERS_FILE in str(error)
        else:
            assert all(np.isfinite(array).all() for array in arrays)


# Sizes


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8])
def test_sizes_come_back_as_plain_numbers(kind):
    sizes = as_sizes(np.array([2, 4], dtype=kind), 6)
    assert sizes == (2, 4)
    assert all(type(size) is int for size in sizes)


@pytest.mark.parametrize(
    "sizes",
    [
        np.array([2, 3]),
        np.array([0, 6]),
        np.array([7, -1]),
        np.array([2.0, 4.0]),
        np.array([[2, 4]]),
        np.array(6),
        np.zeros(0, int),
    ],
)
def test_sizes_that_do_not_divide_the_values_are_refused(sizes):
    with pytest.raises(ValueError, match=r"probe\.safetensors holds 6 values for blocks of the sizes"):
        as_sizes(sizes, 6)


# Features


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_named_with_its_sample(poison):
    features = np.zeros((4, 3), dtype=np.float32)
    check_finite(features)
    features[2, 1] = poison
    with pytest.raises(ValueError, match=f"feature value 1 of sample 2 is {poison}"):
        check_finite(features)
