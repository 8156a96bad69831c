"""Labelled samples of updates: what a probe is fitted to and measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """n samples, one per local step of a reference client; every array has n rows."""

    features: np.ndarray
    """(n, d) float32. May be a memory-mapped file."""
    labels: np.ndarray
    """(n,) int: 1 for malicious, 0 for benign."""
    clients: np.ndarray
    """(n,) str: the reference client a sample comes from; a client has one label and one family."""
    families: np.ndarray
    """(n,) str: the family of tasks that the client trained on."""
    steps: np.ndarray
    """(n,) int: the local step, from 1."""
    states: np.ndarray
    """(n,) str: the adapter state that training started from, such as `initial`."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Samples:
        """The samples where the mask `rows` (n,) is true."""
        return Samples(*(getattr(self, name)[rows] for name in self.__slots__))
