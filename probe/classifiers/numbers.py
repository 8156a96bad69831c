"""A classifier's arrays as one safetensors file."""

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
