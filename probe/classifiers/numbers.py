"""A classifier's arrays as one safetensors file, and what makes arrays fit for a classifier."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

NUMBERS_FILE = "probe.safetensors"


def write_numbers(arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """File name -> content."""
    return {NUMBERS_FILE: save({name: np.ascontiguousarray(array) for name, array in arrays.items()})}


def read_numbers(files: Mapping[str, bytes], *names: str) -> list[np.ndarray]:
    """The arrays of these names; raises ValueError when one is missing or holds NaN or infinity."""
    try:
        arrays = load(files[NUMBERS_FILE])
        wanted = [arrays[name] for name in names]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{NUMBERS_FILE} cannot be used: {error}") from error
    for name, array in zip(names, wanted, strict=True):
        if not np.isfinite(array).all():
            raise ValueError(f"{NUMBERS_FILE} holds NaN or infinity in {name}; train the probe again")
    return wanted


def as_sizes(array: np.ndarray, num_values: int) -> tuple[int, ...]:
    """The sizes of blocks that were kept in an array; raises ValueError unless they divide `num_values` values."""
    sizes = array.tolist()
    whole = array.ndim == 1 and array.dtype.kind in "iu" and min(sizes, default=0) > 0
    if not whole or sum(sizes) != num_values:
        raise ValueError(f"{NUMBERS_FILE} holds {num_values} values for blocks of the sizes {sizes}; train the probe again")
    return tuple(sizes)


def check_finite(features: np.ndarray) -> None:
    """Raise ValueError at the first value of features (n, d) that is not finite.

    Row by row, since the features may be larger than memory.
    """
    for row, values in enumerate(features):
        if not np.isfinite(values).all():
            column = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"feature value {column} of sample {row} is {values[column]}")
