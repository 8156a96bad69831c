"""Random streams derived from a seed and a purpose, so no stream depends on placement or order of arrival."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """A generator for one purpose, such as ("batches", client_id, round_index)."""
    return np.random.default_rng([seed, _digest(purpose)])


def torch_seed(seed: int, *purpose: str | int) -> int:
    """A seed for torch's global generator (dropout) for one purpose, in [0, 2**63)."""
    return int(stream(seed, *purpose).integers(2**63))


def _digest(purpose: tuple[str | int, ...]) -> int:
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in purpose)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
